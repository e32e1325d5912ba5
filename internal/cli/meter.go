package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Progress is the value of --progress.
type Progress string

// Forms of progress.
const (
	ProgressAuto  Progress = "auto"  // a bar on a terminal, plain lines elsewhere
	ProgressPlain Progress = "plain" // a line every LineEvery
	ProgressNone  Progress = "none"
)

// LineEvery is the interval of plain progress lines. It keeps a log readable.
const LineEvery = 5 * time.Second

const (
	drawEvery = 65 * time.Millisecond // faster changes of a bar cannot be seen
	barWidth  = 30                    // columns
)

// OutputFlags adds --json, --progress and -q to a group.
func (c *Command) OutputFlags(json *bool) {
	f := c.Group("Result and progress flags")
	f.BoolVar(json, "json", false, "print the result as JSON on standard output")
	c.progress = ProgressAuto
	Choice(f, &c.progress, "progress", "progress on standard error; auto is a bar on a terminal and plain lines elsewhere",
		ProgressAuto, ProgressPlain, ProgressNone)
	f.BoolVarP(&c.quiet, "quiet", "q", false, "no progress: --progress=none")
	c.Old(Old{"--progress=false", "--progress=none"}, Old{"--progress=true", "--progress=auto"})
}

// Meter returns the meter that --progress and -q ask for. It writes to w.
func (c *Command) Meter(w io.Writer) *Meter {
	how := c.progress
	if c.quiet {
		how = ProgressNone
	}
	return NewMeter(w, c.name, how)
}

// Meter shows how many bytes of a job are done: as a bar, as a line every
// [LineEvery], or not at all. Its methods may be called from several
// goroutines. A meter that has not started shows nothing.
type Meter struct {
	w    io.Writer
	name string
	how  Progress
	tty  bool

	mu          sync.Mutex // guards the fields below
	bar         *progressbar.ProgressBar
	begin, last time.Time
	done, total int64
}

// NewMeter returns a meter whose lines begin with name.
func NewMeter(w io.Writer, name string, how Progress) *Meter {
	f, ok := w.(*os.File)
	return &Meter{w: w, name: name, how: how, tty: how == ProgressAuto && ok && term.IsTerminal(int(f.Fd()))}
}

// On reports whether the meter shows anything.
func (m *Meter) On() bool { return m.how != ProgressNone }

// Start begins a job of total bytes. A bar has the title in front of it. In the
// plain form Start prints the title followed by about, unless about is empty.
func (m *Meter) Start(title, about string, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begin, m.last, m.done, m.total = time.Now(), time.Now(), 0, total
	switch {
	case m.how == ProgressNone:
	case m.tty:
		m.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(m.w), progressbar.OptionShowBytes(true),
			progressbar.OptionSetDescription(title), progressbar.OptionSetWidth(barWidth),
			progressbar.OptionThrottle(drawEvery), progressbar.OptionClearOnFinish())
		_ = m.bar.RenderBlank() // starts its clock
	case about != "":
		fmt.Fprintf(m.w, "%s: %s%s\n", m.name, title, about)
	}
}

// Set updates the number of bytes that are done. A plain line also shows the
// items, such as "1 of 3 layers", and ends with the details; both may be nil.
func (m *Meter) Set(done int64, items, details func() string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done = done
	if m.bar != nil {
		_ = m.bar.Set64(done) // the work continues if the terminal is gone
		return
	}
	now := time.Now()
	if m.how == ProgressNone || m.begin.IsZero() || now.Sub(m.last) < LineEvery {
		return
	}
	m.last = now
	rate := float64(max(done, 1)) / now.Sub(m.begin).Seconds()
	left := time.Duration(float64(m.total-done) / rate * float64(time.Second))
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s of %s", m.name, Megabytes(done), Megabytes(m.total))
	if items != nil {
		b.WriteString(", " + items())
	}
	fmt.Fprintf(&b, ", %s/s, %s left", Megabytes(int64(rate)), left.Round(time.Second))
	if details != nil {
		b.WriteString(details())
	}
	fmt.Fprintln(m.w, b.String())
}

// Describe changes the text before a bar.
func (m *Meter) Describe(title string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar != nil {
		m.bar.Describe(title)
	}
}

// End removes the bar.
func (m *Meter) End() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar != nil {
		_ = m.bar.Clear()
	}
}

// Megabytes returns n bytes as text, such as "12.3 MB" (10^6 bytes).
func Megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
