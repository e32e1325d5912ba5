package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/penstock/penstock/s3stream"
)

// lineEvery is the pace of plain progress lines: a few screens an hour.
const lineEvery = 5 * time.Second

// meter shows progress: a bar on a terminal, a line now and then elsewhere.
type meter struct {
	w     io.Writer
	quiet bool
	tty   bool

	mu    sync.Mutex // guards what follows
	bar   *progressbar.ProgressBar
	begin time.Time
	last  time.Time
}

func newMeter(w io.Writer, quiet bool) *meter {
	f, ok := w.(*os.File)
	return &meter{w: w, quiet: quiet, tty: ok && term.IsTerminal(int(f.Fd()))}
}

// show is a Progress callback.
func (m *meter) show(done, total int64) {
	if m.quiet || total == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if m.begin.IsZero() {
		m.begin, m.last = now, now
	}
	if m.tty {
		if m.bar == nil {
			m.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(m.w), progressbar.OptionShowBytes(true),
				progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish())
		}
		_ = m.bar.Set64(done) // a terminal that is gone is no reason to stop
		return
	}
	if now.Sub(m.last) < lineEvery {
		return
	}
	m.last = now
	rate := float64(done) / max(now.Sub(m.begin).Seconds(), 0.001) / 1e6
	fmt.Fprintf(m.w, "penstock-cast: %d of %d bytes (%d %%), %.0f MB/s\n", done, total, 100*done/total, rate)
}

// end removes the bar.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar != nil {
		_ = m.bar.Clear()
	}
}

// print shows the result: JSON for machines, a table of the workers or a line
// for people. The people's version goes to standard error, so that it never
// mixes with bytes on standard output.
func (c *command) print(rep *s3stream.Report, err error) {
	switch {
	case c.json:
		out := struct {
			*s3stream.Report        // nil, and so absent, after most failures
			Error            string `json:"error,omitempty"`
		}{Report: rep}
		if err != nil {
			out.Error = oneLine(err)
		}
		e := json.NewEncoder(c.stdout)
		e.SetIndent("", "  ")
		_ = e.Encode(out) // whoever closed our output does not want it
	case rep == nil:
	case len(rep.Workers) > 0:
		fmt.Fprint(c.stderr, rep.Table())
	default:
		fmt.Fprintf(c.stderr, "penstock-cast %s: %d objects, %d bytes in %.3f s (%.1f MB/s), verified\n", c.name,
			rep.Objects, rep.Bytes, rep.Elapsed.Seconds(), float64(rep.Bytes)/max(rep.Elapsed.Seconds(), 1e-9)/1e6)
	}
}
