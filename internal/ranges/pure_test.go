package ranges

import (
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/minio/crc64nvme"
	"pgregory.net/rapid"
)

// The decision types are pure. Their tests are the scripts in testdata, which print
// each decision and the state after it.

func TestWindowScript(t *testing.T) {
	datadriven.RunTest(t, "testdata/window", func(t *testing.T, d *datadriven.TestData) string {
		var part, limit int64
		d.ScanArgs(t, "part", &part)
		d.ScanArgs(t, "max", &limit)
		w := newStreamWindow(part, limit)
		if d.Cmd == "reader" {
			w = newReaderWindow(part, limit)
		}
		var out strings.Builder
		for line := range strings.Lines(d.Input) {
			step := strings.TrimSpace(line)
			stepWindow(t, &w, step)
			fmt.Fprintf(&out, "%s: size=%d\n", step, w.size)
		}
		return out.String()
	})
}

func stepWindow(t *testing.T, w *window, step string) {
	t.Helper()
	switch step {
	case "open":
		w.open()
	case "close":
		w.close()
	case "waited":
		w.consumerWaited()
	case "budget-empty":
		w.budgetEmpty()
	default:
		t.Fatalf("unknown step %q", step)
	}
}

func TestPatternScript(t *testing.T) {
	names := map[access]string{accessRandom: "random", accessSequential: "sequential", accessSeek: "seek"}
	datadriven.RunTest(t, "testdata/pattern", func(t *testing.T, d *datadriven.TestData) string {
		var fetched int64
		if d.HasArg("fetched") {
			d.ScanArgs(t, "fetched", &fetched)
		}
		p := newPattern()
		var out strings.Builder
		for line := range strings.Lines(d.Input) {
			var off, n int64
			scan(t, line, "read %d %d", &off, &n)
			a := p.read(off, n, fetched)
			fmt.Fprintf(&out, "read %d+%d: %s, run of %d bytes to %d\n", off, n, names[a], p.run, p.expected)
		}
		return out.String()
	})
}

func TestReadAheadScript(t *testing.T) {
	datadriven.RunTest(t, "testdata/readahead", func(t *testing.T, d *datadriven.TestData) string {
		var part, limit int64
		d.ScanArgs(t, "part", &part)
		d.ScanArgs(t, "max", &limit)
		r := newReadAhead(part, limit)
		var out strings.Builder
		for line := range strings.Lines(d.Input) {
			step := strings.TrimSpace(line)
			if !strings.HasPrefix(step, "read ") {
				stepWindow(t, &r.window, step)
				fmt.Fprintf(&out, "%s: size=%d ahead=%d\n", step, r.size, r.bytes())
				continue
			}
			var off, n int64
			scan(t, line, "read %d %d", &off, &n)
			a := r.read(off, n)
			fmt.Fprintf(&out, "read %d+%d: sequential=%v seek=%v size=%d ahead=%d\n", off, n, a == accessSequential, a == accessSeek, r.size, r.bytes())
		}
		return out.String()
	})
}

func TestLimiterScript(t *testing.T) {
	datadriven.RunTest(t, "testdata/limiter", func(t *testing.T, d *datadriven.TestData) string {
		var rate int64
		var lo, hi int
		d.ScanArgs(t, "rate", &rate)
		d.ScanArgs(t, "min", &lo)
		d.ScanArgs(t, "max", &hi)
		l := newLimiter(rate, lo, hi)
		var out strings.Builder
		fmt.Fprintf(&out, "start: slots=%d\n", l.slots(0))
		for line := range strings.Lines(d.Input) {
			var n, ms, after int64
			switch f := strings.Fields(line); f[0] {
			case "epoch": // epoch N MS BYTES: N requests of BYTES end over MS, others wait
				var from, bytes int64
				scan(t, line, "epoch %d..%d %d", &from, &ms, &bytes)
				n = int64(max(int(l.limit), 4))
				for i := range n {
					l.wanted()
					l.done(at(from)+at(ms-from)*time.Duration(i+1)/time.Duration(n), bytes)
				}
				fmt.Fprintf(&out, "%s -> slots=%d\n", strings.TrimSpace(line), l.slots(at(ms)))
			case "throttle":
				var sent int64
				scan(t, line, "throttle at=%d sent=%d after=%d times=%d", &ms, &sent, &after, &n)
				for range n {
					l.throttle(at(ms), at(sent), at(after))
				}
				fmt.Fprintf(&out, "%s -> slots=%d limit=%.1f\n", strings.TrimSpace(line), l.slots(at(ms)), l.limit)
			case "slots":
				scan(t, line, "slots at=%d", &ms)
				fmt.Fprintf(&out, "%s -> %d\n", strings.TrimSpace(line), l.slots(at(ms)))
			default:
				t.Fatalf("unknown step %q", line)
			}
		}
		return out.String()
	})
}

func TestHedgerScript(t *testing.T) {
	datadriven.RunTest(t, "testdata/hedger", func(t *testing.T, d *datadriven.TestData) string {
		p := HedgePolicy{}
		if d.HasArg("disabled") {
			p.Quantile = -1
		}
		h := newHedger(p.withDefaults())
		var out strings.Builder
		for line := range strings.Lines(d.Input) {
			var n, times, ms, last, got, want int64
			switch f := strings.Fields(line); f[0] {
			case "done":
				scan(t, line, "done bytes=%d ms=%d times=%d", &n, &ms, &times)
				for range times {
					h.requestSent()
					h.done(n, at(ms))
				}
				u := h.typical(n)
				fmt.Fprintf(&out, "%s -> quantile=%v median=%v tokens=%.2f\n", strings.TrimSpace(line), u.quantile, u.median, h.tokens)
			case "due":
				scan(t, line, "due now=%d last=%d got=%d want=%d", &ms, &last, &got, &want)
				due := h.due(at(ms), running{start: 0, lastByte: at(last), got: got, want: want})
				fmt.Fprintf(&out, "%s -> %v\n", strings.TrimSpace(line), due)
			case "among": // like due, with other requests, some of which have ended since the start and the last byte
				var others int
				var ended int64
				scan(t, line, "among others=%d ended=%d now=%d last=%d got=%d want=%d", &others, &ended, &ms, &last, &got, &want)
				due := h.due(at(ms), running{lastByte: at(last), got: got, want: want, others: others, sinceStart: ended, sinceByte: ended})
				fmt.Fprintf(&out, "%s -> %v\n", strings.TrimSpace(line), due)
			case "spend":
				fmt.Fprintf(&out, "spend -> %v tokens=%.2f\n", h.spend(), h.tokens)
			case "refund":
				h.refund()
				fmt.Fprintf(&out, "refund -> tokens=%.2f\n", h.tokens)
			default:
				t.Fatalf("unknown step %q", line)
			}
		}
		return out.String()
	})
}

func TestAwakeScript(t *testing.T) {
	datadriven.RunTest(t, "testdata/awake", func(t *testing.T, d *datadriven.TestData) string {
		var w awakeClock
		var out strings.Builder
		for line := range strings.Lines(d.Input) {
			var ms, next int64
			switch f := strings.Fields(line); f[0] {
			case "look":
				scan(t, line, "look now=%d next=%d", &ms, &next)
				w.look(at(ms))
				w.expect(at(ms + next))
				fmt.Fprintf(&out, "%s -> %v\n", strings.TrimSpace(line), awakeAt(at(ms), w.lost))
			case "at":
				scan(t, line, "at now=%d", &ms)
				fmt.Fprintf(&out, "%s -> %v\n", strings.TrimSpace(line), awakeAt(at(ms), w.lost))
			default:
				t.Fatalf("unknown step %q", line)
			}
		}
		return out.String()
	})
}

// Each line of the script is an attempt: how it ended, how many bytes it received
// and how long it took. The next one starts after the pause of the verdict.
// "until" repeats the line until the operation fails, and prints the last
// attempts only.
func TestRetryScript(t *testing.T) {
	errs := map[string]error{
		"throttled": &Fault{Kind: Throttled, Status: 503},
		"later":     &Fault{Kind: Throttled, Status: 429, RetryAfter: 3 * time.Second},
		"tomorrow":  &Fault{Kind: Throttled, Status: 503, RetryAfter: 2 * time.Minute},
		"reset":     errors.New("connection reset"),
		"refused":   errors.New("connection refused"),
		"silent":    &Fault{Kind: Retryable, Fresh: true, Err: ErrStalled},
		"slow":      &Fault{Kind: Retryable, Fresh: true, Err: ErrSlow},
		"server":    &Fault{Kind: Retryable, Status: 500},
		"changed":   &Fault{Kind: Changed, Status: 200},
		"412":       &Fault{Kind: Changed, Status: 412},
		"missing":   &Fault{Kind: NotFound, Status: 404},
		"denied":    &Fault{Kind: Denied, Status: 403},
		"noranges":  &Fault{Kind: NoRanges},
		"size":      &Fault{Kind: WrongSize},
	}
	datadriven.RunTest(t, "testdata/retry", func(t *testing.T, d *datadriven.TestData) string {
		var p RetryPolicy
		if d.HasArg("attempts") {
			d.ScanArgs(t, "attempts", &p.Attempts)
		}
		p = p.WithDefaults()
		refused := 100 // percent of the host's answers
		if d.HasArg("refused") {
			d.ScanArgs(t, "refused", &refused)
		}
		waited := 0 // seconds in the queue of a host that does not answer
		if d.HasArg("waited") {
			d.ScanArgs(t, "waited", &waited)
		}
		var f Retries
		var out strings.Builder
		begin := time.Hour
		now := begin + time.Duration(waited)*time.Second
		step := func(line string) (string, Verdict) {
			var name string
			var progress, took int64
			scan(t, line, "%s progress=%d took=%d", &name, &progress, &took)
			err, ok := errs[name]
			if !ok {
				t.Fatalf("unknown error %q", name)
			}
			start := now
			now += at(took)
			v := f.Next(p, Failure{Err: err, Start: start, Now: now, Waited: start - begin, Progress: progress, Refused: float64(refused) / 100, Rand: 0.5})
			said := fmt.Sprintf("%v: %s -> retry=%v after=%v fresh=%v (in row %d)\n", (start - begin).Round(time.Millisecond), strings.TrimSpace(line), v.Retry, v.After, v.Fresh, f.inRow)
			now += v.After
			return said, v
		}
		for line := range strings.Lines(d.Input) {
			rest, until := strings.CutPrefix(line, "until ")
			if !until {
				said, _ := step(rest)
				out.WriteString(said)
				continue
			}
			var said, last string
			for v := (Verdict{Retry: true}); v.Retry; {
				last = said
				said, v = step(rest)
			}
			fmt.Fprintf(&out, "...\n%s%sfailed after %v\n", last, said, (now - begin).Round(time.Millisecond))
		}
		return out.String()
	})
}

func TestCheckProgressScript(t *testing.T) {
	datadriven.RunTest(t, "testdata/progress", func(t *testing.T, d *datadriven.TestData) string {
		var stall, rate int64
		d.ScanArgs(t, "stall", &stall)
		d.ScanArgs(t, "rate", &rate)
		p := RetryPolicy{Stall: at(stall), LeastRate: rate}.WithDefaults()
		var g Progress
		var out strings.Builder
		for line := range strings.Lines(d.Input) {
			var ms, last, got int64
			scan(t, line, "now=%d last=%d got=%d", &ms, &last, &got)
			fmt.Fprintf(&out, "%s -> %v (window from %v)\n", strings.TrimSpace(line), p.CheckProgress(&g, at(ms), at(last), got), g.From)
		}
		return out.String()
	})
}

func TestRetryLogScript(t *testing.T) {
	datadriven.RunTest(t, "testdata/retrylog", func(t *testing.T, d *datadriven.TestData) string {
		var l RetryLog
		var out strings.Builder
		for line := range strings.Lines(d.Input) {
			var ms int64
			scan(t, line, "retry at=%d", &ms)
			skipped, due := l.Due(at(ms))
			fmt.Fprintf(&out, "%s -> warn=%v skipped=%d\n", strings.TrimSpace(line), due, skipped)
		}
		return out.String()
	})
}

func TestPaceScript(t *testing.T) {
	datadriven.RunTest(t, "testdata/pace", func(t *testing.T, d *datadriven.TestData) string {
		var most int64
		d.ScanArgs(t, "most", &most)
		var p pace
		var out strings.Builder
		fmt.Fprintf(&out, "start: part=%d\n", p.partBytes(most))
		for line := range strings.Lines(d.Input) {
			var start, first, end, n, times int64
			scan(t, line, "done start=%d first=%d end=%d bytes=%d times=%d", &start, &first, &end, &n, &times)
			for range times {
				p.done(at(start), at(first), at(end), n)
			}
			fmt.Fprintf(&out, "%s -> latency=%v rate=%.0f part=%d\n", strings.TrimSpace(line), p.latency(), p.rate, p.partBytes(most))
		}
		return out.String()
	})
}

func scan(t *testing.T, line, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Sscanf(strings.TrimSpace(line), format, args...); err != nil {
		t.Fatalf("step %q is not %q: %v", line, format, err)
	}
}

func at(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

func TestPlanCoversTheSpanOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.Int64Range(1, 1000).Draw(t, "part")
		off := rapid.Int64Range(0, 5000).Draw(t, "off")
		end := off + rapid.Int64Range(0, 10000).Draw(t, "n")
		p := plan{off: off, end: end, partBytes: part}
		for at := off; ; {
			o, n := p.take()
			if n == 0 {
				if at != end || p.more() {
					t.Fatalf("ended at %d of %d", at, end)
				}
				return
			}
			if o != at || n > part || ((o+n)%part != 0 && o+n != end) {
				t.Fatalf("part %d+%d at %d: not in order, too long or not aligned", o, n, at)
			}
			at += n
		}
	})
}

func TestCombine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "data")
		cut := rapid.IntRange(0, len(p)).Draw(t, "cut")
		a, b := p[:cut], p[cut:]
		if got, want := CRC32C.combine(CRC32C.update(0, a), CRC32C.update(0, b), int64(len(b))), uint64(crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli))); got != want {
			t.Fatalf("CRC32C %x, want %x", got, want)
		}
		if got, want := CRC64NVME.combine(CRC64NVME.update(0, a), CRC64NVME.update(0, b), int64(len(b))), crc64nvme.Checksum(p); got != want {
			t.Fatalf("CRC64NVME %x, want %x", got, want)
		}
	})
}

// The values are from the NVM Command Set specification and from RFC 3720.
func TestChecksumVectors(t *testing.T) {
	if got := CRC64NVME.update(0, make([]byte, 4096)); got != 0x6482d367eb22b64e {
		t.Errorf("CRC64NVME of 4 KiB of zeros is %016x", got)
	}
	if got := CRC32C.update(0, make([]byte, 32)); got != 0x8a9136aa {
		t.Errorf("CRC32C of 32 zeros is %08x", got)
	}
}

func TestOptionsValidate(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{}, ""},
		{Options{PartBytes: -1}, "part size -1"},
		{Options{PartBytes: 2 << 30}, "part size"},
		{Options{MaxConns: 1}, "1 connections"},
		{Options{TargetRate: -5}, "target rate -5"},
		{Options{Hedge: HedgePolicy{Quantile: 1.5}}, "hedge quantile 1.5"},
		{Options{Hedge: HedgePolicy{Budget: 2}}, "hedge budget 2"},
		{Options{Retry: RetryPolicy{Base: -1}}, "negative pause"},
	} {
		_, err := New(c.o)
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: error %v, want %q", c.o, err, c.want)
		}
	}
}
