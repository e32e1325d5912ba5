package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

const (
	// lineEvery is the pace of plain progress lines: a log stays readable.
	lineEvery = 5 * time.Second
	// drawEvery is the pace of the bar: the eye sees no more.
	drawEvery = 65 * time.Millisecond
)

// meter shows progress: a bar on a terminal, a line now and then elsewhere. It
// counts compressed bytes, whose sum is known beforehand.
type meter struct {
	w   io.Writer
	tty bool

	mu           sync.Mutex // guards what follows
	bar          *progressbar.ProgressBar
	begin, last  time.Time
	done, total  int64
	ready, count int // layers
}

func newMeter(w io.Writer) *meter {
	f, ok := w.(*os.File)
	return &meter{w: w, tty: ok && term.IsTerminal(int(f.Fd()))}
}

// Start implements soci.Progress.
func (m *meter) Start(reference string, layers []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begin, m.last, m.count = time.Now(), time.Now(), len(layers)
	for _, n := range layers {
		m.total += n
	}
	if m.tty {
		m.bar = progressbar.NewOptions64(m.total, progressbar.OptionSetWriter(m.w), progressbar.OptionShowBytes(true),
			progressbar.OptionSetDescription(reference), progressbar.OptionSetWidth(30),
			progressbar.OptionThrottle(drawEvery), progressbar.OptionClearOnFinish())
		_ = m.bar.RenderBlank() // starts its clock
		return
	}
	fmt.Fprintf(m.w, "penstock-pull: %s: %d layers, %s\n", reference, m.count, megabytes(m.total))
}

// Advance implements soci.Progress.
func (m *meter) Advance(_ int, compressed, _ int64) {
	if compressed == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += compressed
	if m.bar != nil {
		_ = m.bar.Set64(m.done) // a terminal that is gone is no reason to stop
		return
	}
	now := time.Now()
	if now.Sub(m.last) < lineEvery {
		return
	}
	m.last = now
	rate := float64(max(m.done, 1)) / now.Sub(m.begin).Seconds()
	left := time.Duration(float64(m.total-m.done) / rate * float64(time.Second))
	fmt.Fprintf(m.w, "penstock-pull: %s of %s, %d of %d layers, %s/s, %s left\n",
		megabytes(m.done), megabytes(m.total), m.ready, m.count, megabytes(int64(rate)), left.Round(time.Second))
}

// Done implements soci.Progress.
func (m *meter) Done(int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready++
}

// end removes the bar.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar != nil {
		_ = m.bar.Clear()
	}
}
