package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/testorigin"
)

// Names of the objects on the origin.
const (
	bucket   = "bench"
	bigKey   = "big"
	faultKey = "fault"
	smallKey = "small" // small/00000 ...
)

// endpoints are the addresses that the origin gives the driver once it listens.
type endpoints struct {
	S3      string `json:"s3"`
	Control string `json:"control"`
}

// plan is the driver's request to the origin before each run.
type plan struct {
	Faults    string `json:"faults"`     // a fault script
	SwapAfter int64  `json:"swap_after"` // replace the fault object at this GET, or never if 0
}

// counts are the requests and bytes of one run, as the origin saw them.
type counts struct {
	Requests int64 `json:"requests"`
	Bytes    int64 `json:"bytes"` // body bytes sent
	Again    int64 `json:"again"` // bytes that had been sent before
	Faults   int64 `json:"faults"`
}

// originState is the origin with the state of its control server.
type originState struct {
	o    *testorigin.Origin
	data dataset

	mu        sync.Mutex // guards the fields below
	swapAfter int64
	gets      int64
}

// runOrigin is the role "origin": it serves until the driver ends it.
func runOrigin(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("origin", flag.ContinueOnError)
	dir := fs.String("data", "", "folder with the objects")
	objects := fs.Int("objects", 0, "number of small objects")
	ready := fs.String("ready", "", "file to write the endpoints to")
	if err := fs.Parse(args); err != nil {
		return err
	}
	st := &originState{data: dataset{dir: *dir, objects: *objects}}
	// Anonymous is for the plain reader, which does not sign; the SDKs and ours do.
	o, err := testorigin.Start(testorigin.Options{Anonymous: true, Seed: 1, Tap: st.tap})
	if err != nil {
		return err
	}
	defer o.Close()
	st.o = o
	if err := st.putAll(); err != nil {
		return err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /plan", st.setPlan)
	mux.HandleFunc("GET /counts", st.counts)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	if err := writeReady(*ready, endpoints{S3: o.URL(), Control: "http://" + ln.Addr().String()}); err != nil {
		return err
	}
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = srv.Close()
	}
	return err
}

// writeReady puts the file in place as a whole, so that a reader never sees half
// of it.
func writeReady(path string, e endpoints) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func (st *originState) putAll() error {
	// Unhashed, because an MD5 of 4 GiB takes seconds and proves nothing here.
	opts := testorigin.PutFileOptions{Unhashed: true, CRC64NVME: true}
	if err := st.o.PutFile(bucket, bigKey, st.data.big(), opts); err != nil {
		return err
	}
	for i := range st.data.objects {
		if err := st.o.PutFile(bucket, fmt.Sprintf("%s/%05d", smallKey, i), st.data.small(i), opts); err != nil {
			return err
		}
	}
	return st.putFault(st.data.fault())
}

func (st *originState) putFault(path string) error {
	return st.o.PutFile(bucket, faultKey, path, testorigin.PutFileOptions{Unhashed: true})
}

// tap replaces the fault object at the planned request, before that is answered.
func (st *originState) tap(ev testorigin.Event) {
	if ev.Done || ev.Op != "GetObject" || ev.Key != bucket+"/"+faultKey {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.gets++
	if st.gets == st.swapAfter {
		if err := st.putFault(st.data.replacement()); err != nil {
			fmt.Fprintln(os.Stderr, "replace:", err)
		}
	}
}

func (st *originState) setPlan(w http.ResponseWriter, r *http.Request) {
	var p plan
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	faults, err := testorigin.ParseFaults(p.Faults)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	st.mu.Lock()
	replaced := st.swapAfter > 0
	st.swapAfter, st.gets = p.SwapAfter, 0
	st.mu.Unlock()
	if replaced {
		if err := st.putFault(st.data.fault()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	st.o.SetFaults(faults...)
	st.o.Reset()
}

func (st *originState) counts(w http.ResponseWriter, _ *http.Request) {
	var c counts
	for _, n := range st.o.Counters() {
		c.Requests += n.Requests
		c.Bytes += n.Bytes
		c.Faults += n.Faults
		if n.Op == "GetObject" {
			c.Again += st.o.Coverage(n.Key).Again
		}
	}
	if err := json.NewEncoder(w).Encode(c); err != nil {
		fmt.Fprintln(os.Stderr, "counts:", err)
	}
}

// dataset names the files of the objects.
type dataset struct {
	dir     string
	objects int
}

// distinct bounds the files behind the small objects: 2,000 keys are served
// from 256 files, so that the set and the big object fit into memory.
const distinct = 256

func (d dataset) big() string         { return filepath.Join(d.dir, "big") }
func (d dataset) fault() string       { return filepath.Join(d.dir, "fault") }
func (d dataset) replacement() string { return filepath.Join(d.dir, "replacement") }
func (d dataset) small(i int) string {
	return filepath.Join(d.dir, fmt.Sprintf("small-%03d", i%distinct))
}
