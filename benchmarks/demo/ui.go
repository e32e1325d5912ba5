package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// ui prints the progress: bars on a terminal, plain lines elsewhere.
type ui struct {
	out      io.Writer
	terminal bool
}

func newUI(f *os.File) *ui {
	return &ui{out: f, terminal: term.IsTerminal(int(f.Fd()))}
}

func (u *ui) stage(name string) { fmt.Fprintf(u.out, "\n== %s\n", name) }

func (u *ui) say(format string, args ...any) { fmt.Fprintf(u.out, "   "+format+"\n", args...) }

// plainEvery is the interval of progress lines where there is no terminal.
const plainEvery = 5 * time.Second

// job shows the progress of bytes towards a total. Its methods may be called
// from several goroutines.
type job struct {
	u     *ui
	what  string
	total int64
	bar   *progressbar.ProgressBar

	mu    sync.Mutex
	done  int64
	begin time.Time
	said  time.Time
}

func (u *ui) job(what string, total int64) *job {
	j := &job{u: u, what: what, total: total, begin: time.Now(), said: time.Now()}
	if u.terminal {
		j.bar = progressbar.NewOptions64(total, progressbar.OptionSetDescription("   "+what), progressbar.OptionSetWriter(u.out),
			progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetWidth(30))
	}
	return j
}

func (j *job) add(n int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.set(j.done + n)
}

// at sets how many bytes are done in all.
func (j *job) at(n int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.set(n)
}

func (j *job) set(n int64) {
	j.done = n
	if j.bar != nil {
		_ = j.bar.Set64(min(n, j.total)) // an error of drawing must not stop the job
		return
	}
	if now := time.Now(); now.Sub(j.said) >= plainEvery {
		j.said = now
		j.u.say("%s: %s of %s", j.what, size(n), size(j.total))
	}
}

// end replaces the bar with a line.
func (j *job) end(format string, args ...any) {
	if j.bar != nil {
		_ = j.bar.Finish()
	}
	took := time.Since(j.begin)
	extra := ""
	if format != "" {
		extra = ", " + fmt.Sprintf(format, args...)
	}
	j.u.say("%s: %s in %.2f s%s", j.what, size(j.total), took.Seconds(), extra)
}

// size formats bytes.
func size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	default:
		return fmt.Sprintf("%d bytes", n)
	}
}

// rate formats bytes over a time.
func rate(n int64, d time.Duration) string {
	return fmt.Sprintf("%.0f MB/s", float64(n)/1e6/max(d.Seconds(), 1e-9))
}

func printTable(out io.Writer, results []result, took time.Duration) {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.DiscardEmptyColumns)
	for _, r := range results {
		state := "ok"
		switch {
		case r.Error != "":
			state = "FAILED"
		case r.Note != "":
			state = "ok, in part"
		}
		fmt.Fprintf(w, "%s\t%s, %.1f s\n", strings.ToUpper(r.Path), state, r.Seconds)
		for _, l := range r.Lines {
			fmt.Fprintf(w, "  %s\t%s\n", l[0], l[1])
		}
		if r.Note != "" {
			fmt.Fprintf(w, "  note\t%s\n", r.Note)
		}
		if r.Error != "" {
			fmt.Fprintf(w, "  error\t%s\n", r.Error)
		}
	}
	_ = w.Flush() // an error of a closed standard output cannot be reported
	fmt.Fprintf(out, "\n%d paths in %.1f s\n", len(results), took.Seconds())
}
