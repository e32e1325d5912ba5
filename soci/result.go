package soci

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"time"
)

// Result describes a finished pull.
type Result struct {
	Reference string `json:"reference"` // in full form
	Manifest  string `json:"manifest"`  // digest of the platform's manifest
	Platform  string `json:"platform"`  // of the image
	Dir       string `json:"dir"`
	// Config is the verified JSON of the image's configuration: environment,
	// entry point, user.
	Config   json.RawMessage `json:"-"`
	Layers   []Layer         `json:"layers"` // lowest first
	Timing   Timing          `json:"timing"` // sums over the layers; Wall of the whole pull
	Limit    Limit           `json:"limit"`  // which phase bounded the pull
	Warnings []string        `json:"warnings,omitempty"`

	CompressedBytes int64 `json:"compressed_bytes"` // of all layers
	TarBytes        int64 `json:"tar_bytes"`
	FileBytes       int64 `json:"file_bytes"`
	Files           int64 `json:"files"`
	Entries         int64 `json:"entries"`
	// Network counts the requests of the pull, including those for manifests.
	Network Network `json:"network"`
}

// Layer describes one pulled layer.
type Layer struct {
	Digest      string `json:"digest"`
	DiffID      string `json:"diff_id"`
	MediaType   string `json:"media_type"`
	Compression string `json:"compression"` // gzip, zstd or none, as detected; the media type may differ
	// Special names the format that the descriptor's annotations announce:
	// "estargz", "zstd:chunked", or "" for an ordinary layer. Both are unpacked
	// as plain gzip or zstd, without their indexes.
	Special string `json:"special,omitempty"`
	// Resumed is set if an earlier, interrupted pull had finished the layer.
	Resumed bool `json:"resumed,omitempty"`
	// ResumedAt is the offset in the blob at which fetching resumed from a
	// checkpoint of an earlier pull, or 0.
	ResumedAt int64 `json:"resumed_at,omitempty"`
	// Copy is set if the image has the same layer further down, so that this
	// one was not fetched again.
	Copy            bool   `json:"copy,omitempty"`
	CompressedBytes int64  `json:"compressed_bytes"`
	TarBytes        int64  `json:"tar_bytes"`
	FileBytes       int64  `json:"file_bytes"`
	Files           int64  `json:"files"`
	Entries         int64  `json:"entries"`
	Timing          Timing `json:"timing"`
	Dir             string `json:"dir,omitempty"` // with PullLayers
}

// Timing holds the durations of a pull's phases, which overlap.
type Timing struct {
	Network time.Duration // inflate was idle, waiting for bytes
	Inflate time.Duration // decompression
	Hash    time.Duration // both digests
	Write   time.Duration // creating and writing files, summed over the writers
	Merge   time.Duration // moving layers together
	Wall    time.Duration // from start to end

	blocked  time.Duration // inflate waited for hash or write
	lastHash float64       // share of blocked that was spent waiting for hash
}

// Limit names the phase that bounded a pull. It divides the time of the
// goroutines that inflate, one per layer in progress. Because they are in the
// middle of the pipeline, at any time such a goroutine either works, waits for
// the network (the step before it), or waits for hash or write (the steps after
// it).
type Limit struct {
	Phase string  `json:"phase"` // "network", "inflate", "hash" or "write"; "" if no layer was unpacked
	Share float64 `json:"share"` // of the time of these goroutines, 0 to 1
	Next  string  `json:"next"`  // the phase with the second largest share
	// NextShare is the share of Next. Share - NextShare is the margin of the
	// limit.
	NextShare float64 `json:"next_share"`
}

// limit finds the phases with the largest shares.
func (t Timing) limit() Limit {
	type phase struct {
		name string
		took float64
	}
	blocked := t.blocked.Seconds()
	all := []phase{
		{"network", t.Network.Seconds()},
		{"inflate", t.Inflate.Seconds()},
		{"hash", blocked * t.lastHash},
		{"write", blocked * (1 - t.lastHash)},
	}
	slices.SortStableFunc(all, func(a, b phase) int { return cmp.Compare(b.took, a.took) })
	sum := t.Network.Seconds() + t.Inflate.Seconds() + blocked
	if sum <= 0 {
		return Limit{}
	}
	round := func(x float64) float64 { return math.Round(x/sum*1000) / 1000 }
	return Limit{Phase: all[0].name, Share: round(all[0].took), Next: all[1].name, NextShare: round(all[1].took)}
}

// Network counts requests.
type Network struct {
	Requests int64 `json:"requests"` // sent, hedges and retries included
	Retries  int64 `json:"retries"`
	Hedges   int64 `json:"hedges"`
	Bytes    int64 `json:"bytes"` // received in bodies
}

// MarshalJSON writes seconds, rounded to the microsecond.
func (t Timing) MarshalJSON() ([]byte, error) {
	s := func(d time.Duration) float64 { return math.Round(d.Seconds()*1e6) / 1e6 }
	return json.Marshal(struct {
		Network float64 `json:"network_s"`
		Inflate float64 `json:"inflate_s"`
		Hash    float64 `json:"hash_s"`
		Write   float64 `json:"write_s"`
		Merge   float64 `json:"merge_s,omitempty"`
		Wall    float64 `json:"wall_s"`
	}{s(t.Network), s(t.Inflate), s(t.Hash), s(t.Write), s(t.Merge), s(t.Wall)})
}

// add adds the phases of u to t.
func (t *Timing) add(u Timing) {
	if sum := t.blocked + u.blocked; sum > 0 {
		t.lastHash = (t.lastHash*t.blocked.Seconds() + u.lastHash*u.blocked.Seconds()) / sum.Seconds()
		t.blocked = sum
	}
	t.Network += u.Network
	t.Inflate += u.Inflate
	t.Hash += u.Hash
	t.Write += u.Write
}

// Progress receives the progress of a pull. Its methods are called
// concurrently. They must return quickly, because the pull waits for them.
type Progress interface {
	// Start is called once, after the manifest is resolved, with the compressed
	// size of each layer, or 0 for a layer that need not be fetched.
	Start(reference string, layers []int64)
	// Advance reports bytes received (compressed) or inflated (tar) of a layer.
	// They are negative if the bytes were wrong and are fetched again from
	// another host.
	Advance(layer int, compressed, tar int64)
	// Done reports that a layer is unpacked and verified.
	Done(layer int)
}

// noProgress discards the progress of a pull.
type noProgress struct{}

func (noProgress) Start(string, []int64)     {}
func (noProgress) Advance(int, int64, int64) {}
func (noProgress) Done(int)                  {}
