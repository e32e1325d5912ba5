package main

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

	mu          sync.Mutex // guards what follows
	bar         *progressbar.ProgressBar
	reference   string
	begin, last time.Time
	done, total int64
	layers      []layerMeter
	ready       int // layers
}

// layerMeter is how far one layer is.
type layerMeter struct {
	done, total int64
	ready       bool
}

func newMeter(w io.Writer) *meter {
	f, ok := w.(*os.File)
	return &meter{w: w, tty: ok && term.IsTerminal(int(f.Fd()))}
}

// Start implements soci.Progress.
func (m *meter) Start(reference string, layers []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reference, m.begin, m.last = reference, time.Now(), time.Now()
	for _, n := range layers {
		m.total += n
		m.layers = append(m.layers, layerMeter{total: n})
	}
	if m.tty {
		m.bar = progressbar.NewOptions64(m.total, progressbar.OptionSetWriter(m.w), progressbar.OptionShowBytes(true),
			progressbar.OptionSetDescription(reference), progressbar.OptionSetWidth(30),
			progressbar.OptionThrottle(drawEvery), progressbar.OptionClearOnFinish())
		_ = m.bar.RenderBlank() // starts its clock
		return
	}
	fmt.Fprintf(m.w, "penstock-pull: %s: %d layers, %s\n", reference, len(m.layers), megabytes(m.total))
}

// Advance implements soci.Progress. A negative layer is one that is not known.
func (m *meter) Advance(layer int, compressed, _ int64) {
	if compressed == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += compressed
	if layer >= 0 && layer < len(m.layers) {
		m.layers[layer].done += compressed
	}
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
	fmt.Fprintf(m.w, "penstock-pull: %s of %s, %d of %d layers, %s/s, %s left%s\n",
		megabytes(m.done), megabytes(m.total), m.ready, len(m.layers), megabytes(int64(rate)), left.Round(time.Second), m.atWork())
}

// atWork tells how far the layers are that are being fetched, counted from the lowest. m.mu
// is held.
func (m *meter) atWork() string {
	var out strings.Builder
	for i, l := range m.layers {
		if l.done > 0 && !l.ready {
			fmt.Fprintf(&out, "; layer %d at %d %%", i+1, 100*l.done/max(l.total, 1))
		}
	}
	return out.String()
}

// Done implements soci.Progress.
func (m *meter) Done(layer int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready++
	if layer >= 0 && layer < len(m.layers) {
		m.layers[layer].ready = true
	}
	if m.bar != nil {
		m.bar.Describe(fmt.Sprintf("%s, %d of %d layers", m.reference, m.ready, len(m.layers)))
	}
}

// end removes the bar.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar != nil {
		_ = m.bar.Clear()
	}
}
