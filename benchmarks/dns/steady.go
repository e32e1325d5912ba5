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
	// quietRate is what a small cluster asks a replica, a second.
	quietRate = 1000
	// idleFor is how long servers without a question are watched: CoreDNS has
	// timers of seconds.
	idleFor = 10 * time.Second
)

// steady measures servers that have little to do: 1,000 questions a second, and none.
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
	before := []time.Duration{ours.cpu(), stock.cpu()}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(b.o.idle()):
	}
	perSecond := func(i int, s *server) float64 {
		return float64((s.cpu() - before[i]).Microseconds()) / b.o.idle().Seconds()
	}
	mine, theirs := perSecond(0, ours), perSecond(1, stock)
	res.Tables = append(res.Tables, bench.Table{Title: "Idle", Columns: []string{"server", "CPU us a second"}, Rows: [][]string{
		{oursName, fmt.Sprintf("%.0f", mine)}, {stockName, fmt.Sprintf("%.0f", theirs)},
	}})
	res.Verdicts = append(res.Verdicts, bench.AtMost("CPU when idle, of CoreDNS with its cache", max(mine, 1)/max(theirs, 1), 1, fmt.Sprintf("x (%.0f us a second)", mine)))
	return nil
}

// paced is how many questions a run at quietRate asks: three seconds of them.
func (o options) paced() int { return min(o.queries, 3*quietRate) }

func (o options) idle() time.Duration {
	if o.out == "" {
		return time.Second
	}
	return idleFor
}

// runPaced is the role "paced": questions at a rate, whether they are answered or not.
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
