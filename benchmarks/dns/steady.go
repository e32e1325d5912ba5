package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

const (
	// quietRate is the questions a second that a small cluster asks a replica.
	quietRate = 1000
	// idleFor is how long servers without a question are watched, idleTimes as
	// often: CoreDNS has timers of seconds, and Go collects every two minutes,
	// which is more than all else in that time, and is left out by the median.
	idleFor   = 10 * time.Second
	idleTimes = 5
)

// steady measures servers that have little to do: 1,000 questions a second, and
// none.
func (b *run) steady(ctx context.Context, res *bench.Result) error {
	ours, stock, err := b.both(ctx)
	if err != nil {
		return err
	}
	servers := []*server{ours, stock}
	if err := warm(ctx, servers, b.mix); err != nil {
		return err
	}
	var turns []turn
	for _, s := range servers {
		turns = append(turns, turn{name: s.name, on: s, ours: s == ours, cpus: b.load, role: b.o.questions("paced", s, b.o.paced(), "-rate", strconv.Itoa(quietRate))})
	}
	if _, err := measure(ctx, res, cpuCase("1,000 questions a second", b.exe, turns, b.o), []target{
		{"CPU for an answer at 1,000 a second against CoreDNS with its cache", oursName, stockName, perAnswer, 1, ""},
		{"p99 at 1,000 a second against CoreDNS with its cache", oursName, stockName, extra(extraP99), 1, ""},
	}); err != nil {
		return err
	}
	idle, err := b.idle(ctx, servers)
	if err != nil {
		return err
	}
	t := bench.Table{Title: "Idle", Columns: []string{"server", "CPU us a second", "threads woken a second"}}
	for i, s := range servers {
		t.Rows = append(t.Rows, []string{s.name, fmt.Sprintf("%.0f", idle[i].cpu), fmt.Sprintf("%.1f", idle[i].woken)})
	}
	res.Tables = append(res.Tables, t)
	mine, theirs := idle[0].cpu, idle[1].cpu
	res.Verdicts = append(res.Verdicts, bench.AtMost("CPU when idle, of CoreDNS with its cache", max(mine, 1)/max(theirs, 1), 1, fmt.Sprintf("x (%.0f us a second)", mine)))
	return nil
}

// idleness is the work of a server in a second without a question.
type idleness struct {
	cpu   float64 // microseconds
	woken float64 // times that a thread went to sleep
}

// idle watches servers without questions, and returns the medians.
func (b *run) idle(ctx context.Context, servers []*server) ([]idleness, error) {
	cpu, woken := make([][]float64, len(servers)), make([][]float64, len(servers))
	for range idleTimes {
		var before []time.Duration
		var slept []int64
		for _, s := range servers {
			before, slept = append(before, s.cpu()), append(slept, s.sleeps())
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(b.o.idle()):
		}
		for i, s := range servers {
			cpu[i] = append(cpu[i], float64((s.cpu()-before[i]).Microseconds())/b.o.idle().Seconds())
			woken[i] = append(woken[i], float64(s.sleeps()-slept[i])/b.o.idle().Seconds())
		}
	}
	out := make([]idleness, len(servers))
	for i := range servers {
		out[i] = idleness{median(cpu[i]), median(woken[i])}
	}
	return out, nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// paced is how many questions a run at quietRate asks: three seconds of them.
func (o options) paced() int { return min(o.queries, 3*quietRate) }

func (o options) idle() time.Duration {
	if o.out == "" {
		return time.Second
	}
	return idleFor
}

// runPaced is the role "paced": questions at a rate, whether they are answered
// or not.
func runPaced(ctx context.Context, args []string) error {
	fs, asked := askedFlags("paced")
	rate := fs.Int("rate", quietRate, "questions a second")
	if err := fs.Parse(args); err != nil {
		return err
	}
	packets, err := pack(newMix(asked.services, 0).Queries)
	if err != nil {
		return err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", asked.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	n := min(asked.queries, 1<<16)
	sent := make([]time.Time, n)
	var mu sync.Mutex // guards sent
	var took []time.Duration
	done := make(chan struct{})
	begin := time.Now()
	_ = c.SetReadDeadline(begin.Add(time.Duration(n)*time.Second/time.Duration(*rate) + time.Second))
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for len(took) < n {
			k, err := c.Read(buf)
			if err != nil {
				return
			}
			now := time.Now()
			if k < 12 {
				continue
			}
			mu.Lock()
			if id := int(binary.BigEndian.Uint16(buf)); id < n && !sent[id].IsZero() {
				took = append(took, now.Sub(sent[id]))
			}
			mu.Unlock()
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range n {
		timer.Reset(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(*rate))))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		p := slices.Clone(packets[i%len(packets)])
		binary.BigEndian.PutUint16(p, uint16(i))
		mu.Lock()
		sent[i] = time.Now()
		mu.Unlock()
		if _, err := c.Write(p); err != nil {
			return err
		}
	}
	<-done
	if len(took) == 0 {
		return fmt.Errorf("%s answered nothing", asked.addr)
	}
	slices.Sort(took)
	ms := func(q float64) float64 { return took[int(q*float64(len(took)-1))].Seconds() * 1e3 }
	return bench.PrintReport(os.Stdout, bench.Report{
		Bytes: int64(len(took)), Requests: int64(n), Seconds: time.Since(begin).Seconds(), Outcome: bench.OutcomeOK,
		Extra: map[string]float64{extraP50: ms(0.5), extraP99: ms(0.99), extraLost: float64(n - len(took))},
	})
}

// batches returns how often our server has taken questions from its UDP
// sockets, or 0 for other servers.
func (s *server) batches(ctx context.Context) (float64, error) {
	if s.metrics == 0 {
		return 0, nil
	}
	return s.series(ctx, "coredns_penstock_fastpath_batches_total")
}

// series adds up the values of a family in the server's metrics.
func (s *server) series(ctx context.Context, family string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", s.metrics), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	sum := 0.0
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		line := sc.Text()
		rest, ok := strings.CutPrefix(line, family)
		if ok && (rest[0] == ' ' || rest[0] == '{') {
			v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			if err != nil {
				return 0, err
			}
			sum += v
		}
	}
	return sum, nil
}
