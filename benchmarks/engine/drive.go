package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/testorigin"
)

// timeLimit is when the fault table stops repeating, so that the area takes less
// than ten minutes on a slow machine as well.
const timeLimit = 8 * time.Minute

// readyWithin is how long the origin may take to start. It hashes nothing.
const readyWithin = 30 * time.Second

// driver runs the cases of the area.
type driver struct {
	o        options
	exe      string // this binary
	peers    string // the peers' binary
	dir      string // objects
	origin   *bench.Server
	ep       endpoints
	deadline time.Time
}

// drive is the main role, which prepares everything, measures and reports.
func drive(ctx context.Context, o options) (err error) {
	d := &driver{o: o, deadline: time.Now().Add(timeLimit)}
	if d.exe, err = self(); err != nil {
		return err
	}
	res := bench.Result{Area: "engine", Command: "make bench AREA=engine", Machine: bench.ThisMachine()}
	work, err := os.MkdirTemp("", "penstock-engine-bin-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	fmt.Println("building the peers")
	d.peers = filepath.Join(work, "peers")
	if err := bench.BuildIn(ctx, "benchmarks/engine/peers", d.peers); err != nil {
		return err
	}
	fmt.Println("making the objects of the Go tree")
	if d.dir, err = makeData(o); err != nil {
		return err
	}
	defer os.RemoveAll(d.dir)
	if err := d.startOrigin(ctx); err != nil {
		return err
	}
	defer d.origin.Stop()
	if err := d.measure(ctx, &res); err != nil {
		return err
	}
	res.Notes = notes
	res.Print(os.Stdout)
	if o.out == "" {
		fmt.Println("\nquick run: nothing is written, and the figures mean nothing")
		return nil
	}
	dir, err := res.Write(o.out)
	if err != nil {
		return err
	}
	fmt.Printf("\nwritten: %s/{table.md,result.json,plot.svg}; %d of %d targets missed\n", dir, len(res.Failed()), len(res.Verdicts))
	return nil
}

var notes = []string{
	"Client CPU only: user and system time of the client process. The origin is another process on the same cores and costs the same for all.",
	"Loopback hides network cards and their offloads; the CPU figures compare clients with each other and predict no card. On a shared machine the spread shows how exact the wall times are.",
	"plain is a floor, not a choice: it checks only the status, retries nothing, signs nothing and delivers out of order. Ours signs, pins, verifies length, range and CRC-64/NVME, and delivers in order.",
	"Peers get the same part size and concurrency, a connection pool that keeps its connections, and no checksum work. manager-pooled has 1 MiB copy buffers, which its default lacks.",
	"All objects are files in memory made of Go sources, each MiB stamped with its place; what arrives is compared with them byte by byte in the fault table (in the throughput cases it is thrown away).",
	"Faults come by the origin's script with a fixed seed. Sent again counts bytes that left the origin more than once, by its own book-keeping.",
}

func (d *driver) startOrigin(ctx context.Context) (err error) {
	ready := filepath.Join(d.dir, "ready")
	argv := []string{d.exe, "origin", "-data", d.dir, "-objects", strconv.Itoa(d.o.objects), "-ready", ready}
	if d.origin, err = bench.StartServer(argv, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	err = d.origin.WaitReady(ctx, func(context.Context) error {
		b, err := os.ReadFile(ready)
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &d.ep)
	})
	if err != nil {
		d.origin.Stop()
	}
	return err
}

func (d *driver) measure(ctx context.Context, res *bench.Result) error {
	if d.o.only == "" || d.o.only == "big" {
		m, err := d.throughput(ctx, "one object", bigKey, 0)
		if err != nil {
			return err
		}
		reportThroughput(res, d.o, m, fmt.Sprintf("One object of %d MiB", d.o.size/mib))
	}
	if d.o.only == "" || d.o.only == "small" {
		m, err := d.throughput(ctx, "small objects", smallKey, d.o.objects)
		if err != nil {
			return err
		}
		reportThroughput(res, d.o, m, fmt.Sprintf("%d objects of 1 MiB", d.o.objects))
	}
	if d.o.only == "" || d.o.only == "faults" {
		var all []bench.Measured
		for _, sc := range scenarios() {
			m, err := d.faults(ctx, sc)
			if err != nil {
				return err
			}
			all = append(all, m)
		}
		reportFaults(res, d.o, all)
	}
	return nil
}

// Names of the contestants.
const (
	oursName     = "penstock"
	plainName    = "plain net/http"
	managerName  = "manager"
	pooledName   = "manager, pooled buffers"
	downloadName = "transfermanager.DownloadObject"
	getName      = "transfermanager.GetObject"
)

// contestants returns all clients for one object, or for n objects below key.
func (d *driver) contestants(key string, n int, verify string) []bench.Contestant {
	args := func(argv ...string) []string {
		argv = append(argv, "-endpoint", d.ep.S3, "-bucket", bucket, "-key", key,
			"-conns", strconv.Itoa(d.o.conns), "-part", strconv.FormatInt(d.o.part, 10))
		if n > 0 {
			argv = append(argv, "-objects", strconv.Itoa(n))
		}
		if verify != "" {
			argv = append(argv, "-verify", verify)
		}
		return argv
	}
	// The shared files of this machine must not change the measurement.
	env := []string{
		"AWS_ACCESS_KEY_ID=" + testorigin.AccessKey, "AWS_SECRET_ACCESS_KEY=" + testorigin.SecretKey,
		"AWS_REGION=" + testorigin.Region, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	}
	ours := append(args(d.exe, "ours"), "-budget", strconv.FormatInt(d.o.budget, 10))
	return []bench.Contestant{
		{Name: oursName, Ours: true, Argv: ours, Env: env},
		{Name: plainName, Argv: args(d.exe, "plain"), Env: env},
		{Name: managerName, Argv: args(d.peers, "-client", "manager"), Env: env},
		{Name: pooledName, Argv: args(d.peers, "-client", "manager-pooled"), Env: env},
		{Name: downloadName, Argv: args(d.peers, "-client", "tm-download"), Env: env},
		{Name: getName, Argv: args(d.peers, "-client", "tm-get"), Env: env},
	}
}

func (d *driver) throughput(ctx context.Context, name, key string, n int) (bench.Measured, error) {
	return bench.Measure(ctx, bench.Case{
		Name: name, Contestants: d.contestants(key, n, ""), Rounds: d.o.rounds, Warmup: 1,
		Before: func(ctx context.Context, _ bench.Contestant) error { return d.setPlan(ctx, plan{}) },
		After:  d.addCounts,
	}, os.Stdout)
}

// scenario is one row of the fault table.
type scenario struct {
	name string
	plan plan
}

// The fault scripts. Of 128 ranged GETs the 100th stalls; the origin's seed draws
// the shares for each request.
const (
	stallScript = "GetObject every=100 => stall for=5s at=1MiB\n"
	throttle    = "GetObject p=0.1 => status code=503\n"
	cutScript   = "GetObject p=0.1 => truncate at=random\n"
)

// swapAfter is the GET at which the object is replaced, about a third of all.
const swapAfter = 40

const (
	cleanCase    = "none"
	allCase      = "all three"
	replacedCase = "replaced while reading"
)

func scenarios() []scenario {
	return []scenario{
		{cleanCase, plan{}},
		{"1 % stall 5 s in the body", plan{Faults: stallScript}},
		{"10 % 503", plan{Faults: throttle}},
		{"10 % bodies cut", plan{Faults: cutScript}},
		{allCase, plan{Faults: stallScript + throttle + cutScript}},
		{replacedCase, plan{SwapAfter: swapAfter}},
	}
}

func (d *driver) faults(ctx context.Context, sc scenario) (bench.Measured, error) {
	swap := sc.plan.SwapAfter
	// A quick run has small parts, so that the object changes while it is read.
	sc.plan.SwapAfter = min(swap, d.o.faultSize/d.o.part/2)
	return bench.Measure(ctx, bench.Case{
		Name: sc.name, Contestants: d.contestants(faultKey, 0, dataset{dir: d.dir}.fault()), Rounds: d.o.faultRounds,
		Before:   func(ctx context.Context, _ bench.Contestant) error { return d.setPlan(ctx, sc.plan) },
		After:    d.addCounts,
		Deadline: d.deadline,
	}, os.Stdout)
}

func (d *driver) setPlan(ctx context.Context, p plan) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return d.control(ctx, http.MethodPost, "/plan", b, nil)
}

func (d *driver) addCounts(ctx context.Context, _ bench.Contestant, s *bench.Sample) error {
	var c counts
	if err := d.control(ctx, http.MethodGet, "/counts", nil, &c); err != nil {
		return err
	}
	s.Requests, s.BytesSent, s.BytesTwo = c.Requests, c.Bytes, c.Again
	if s.Extra == nil {
		s.Extra = map[string]float64{}
	}
	s.Extra["faults"] = float64(c.Faults)
	return nil
}

// control talks to the origin's control server.
func (d *driver) control(ctx context.Context, method, path string, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, d.ep.Control+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := (&http.Client{}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("origin control %s: %s", path, resp.Status)
	}
	if into == nil {
		return nil
	}
	return errors.Join(json.NewDecoder(resp.Body).Decode(into))
}
