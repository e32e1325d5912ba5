package s3stream

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a run did. Leader, Worker and Get fill in what they know.
type Report struct {
	Objects int           `json:"objects"`
	Bytes   int64         `json:"bytes"` // of all objects, once
	Elapsed time.Duration `json:"elapsedNanos"`
	// Hash is SHA-256 over name, size and CRC32C of every object: equal at two
	// nodes if and only if they got the same bytes.
	Hash string `json:"hash"`
	// StoreRequests and StoreBytes are what was asked of and received from the store.
	StoreRequests int64 `json:"storeRequests,omitempty"`
	StoreBytes    int64 `json:"storeBytes,omitempty"`
	// Reread is how much of StoreBytes was asked for again for workers that
	// fell behind after a failure.
	Reread   int64          `json:"rereadBytes,omitempty"`
	Topology string         `json:"topology,omitempty"`
	Workers  []WorkerReport `json:"workers,omitempty"` // in node order; a leader's only
	Repairs  []Repair       `json:"repairs,omitempty"` // a worker's only
}

// WorkerReport is what the leader knows of one worker.
type WorkerReport struct {
	Node    int           `json:"node"`
	Name    string        `json:"name"`
	Addr    string        `json:"addr"`
	Bytes   int64         `json:"bytes"` // delivered to its output
	Elapsed time.Duration `json:"elapsedNanos"`
	HashOK  bool          `json:"hashOk"` // it has everything, and it is the same
	Repairs int           `json:"repairs"`
	// Trouble says why the worker changed its parent, the last four times: which node it could not reach, or which
	// one failed.
	Trouble []string `json:"trouble,omitempty"`
	Err     error    `json:"-"` // why it did not finish; nil if it did
}

// MarshalJSON adds the error's text.
func (w WorkerReport) MarshalJSON() ([]byte, error) {
	type bare WorkerReport
	out := struct {
		bare
		Error string `json:"error,omitempty"`
	}{bare: bare(w)}
	if w.Err != nil {
		out.Error = w.Err.Error()
	}
	return json.Marshal(out)
}

// Repair is one change of a worker's parent.
type Repair struct {
	Peer   string `json:"peer"`   // the parent that failed
	Object string `json:"object"` // what it was sending
	Off    int64  `json:"offset"`
	Err    error  `json:"-"`
}

// MarshalJSON adds the error's text.
func (r Repair) MarshalJSON() ([]byte, error) {
	type bare Repair
	out := struct {
		bare
		Error string `json:"error,omitempty"`
	}{bare: bare(r)}
	if r.Err != nil {
		out.Error = r.Err.Error()
	}
	return json.Marshal(out)
}

// rate returns bytes per second.
func rate(bytes int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(bytes) / d.Seconds()
}

// Table writes one line per worker and one for all.
func (r *Report) Table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "node\tname\tbytes\tseconds\tMB/s\thash\trepairs\t")
	var sum int64
	var slowest time.Duration
	for _, x := range r.Workers {
		hash := "ok"
		switch {
		case x.Err != nil:
			hash = "failed: " + x.Err.Error()
		case !x.HashOK:
			hash = "WRONG"
		}
		fmt.Fprintf(w, "%d\t%s\t%d\t%.3f\t%.1f\t%s\t%d\t\n", x.Node, x.Name, x.Bytes, x.Elapsed.Seconds(), rate(x.Bytes, x.Elapsed)/1e6, hash, x.Repairs)
		sum += x.Bytes
		slowest = max(slowest, x.Elapsed)
	}
	fmt.Fprintf(w, "all\t%d workers, %s\t%d\t%.3f\t%.1f\t\t\t\n", len(r.Workers), r.Topology, sum, slowest.Seconds(), rate(sum, slowest)/1e6)
	_ = w.Flush() // a strings.Builder takes everything
	for _, x := range r.Workers {
		for _, why := range x.Trouble {
			fmt.Fprintf(&b, "%s changed its parent: %s\n", x.Name, why)
		}
	}
	fmt.Fprintf(&b, "read from the store: %d bytes in %d requests for %d bytes of %d objects (%d read again)\n",
		r.StoreBytes, r.StoreRequests, r.Bytes, r.Objects, r.Reread)
	return b.String()
}
