package soci

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"time"
)

// Result is what a pull did.
type Result struct {
	Reference string `json:"reference"` // in full form
	Manifest  string `json:"manifest"`  // digest of the platform's manifest
	Platform  string `json:"platform"`  // of the image
	Dir       string `json:"dir"`
	// Config is the image's configuration as it was verified, JSON: environment, entry
	// point, user.
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
	// Network tells what the pull cost the registry, manifests included.
	Network Network `json:"network"`
}

// Layer is what became of one layer.
type Layer struct {
	Digest      string `json:"digest"`
	DiffID      string `json:"diff_id"`
	MediaType   string `json:"media_type"`
	Compression string `json:"compression"` // gzip, zstd or none: what it is, not what its media type says
	// Special names the format that the descriptor's annotations announce: "estargz" or
	// "zstd:chunked", "" for an ordinary layer. Both are unpacked as what they are too,
	// plain gzip or zstd; their indexes are not used.
	Special string `json:"special,omitempty"`
	// Resumed: an earlier pull that was killed had finished it.
	Resumed bool `json:"resumed,omitempty"`
	// ResumedAt is the byte of the blob from which on it was fetched, when an earlier pull
	// that was killed had got further than that.
	ResumedAt int64 `json:"resumed_at,omitempty"`
	// Copy: the image has the same layer further down; it was fetched once for both.
	Copy            bool   `json:"copy,omitempty"`
	CompressedBytes int64  `json:"compressed_bytes"`
	TarBytes        int64  `json:"tar_bytes"`
	FileBytes       int64  `json:"file_bytes"`
	Files           int64  `json:"files"`
	Entries         int64  `json:"entries"`
	Timing          Timing `json:"timing"`
	Dir             string `json:"dir,omitempty"` // with PullLayers
}

// Timing says how long the phases of a pull took. They overlap.
type Timing struct {
	Network time.Duration // inflate had nothing to do but wait for bytes
	Inflate time.Duration // decompression
	Hash    time.Duration // both digests
	Write   time.Duration // creating and writing files, summed over the writers
	Merge   time.Duration // moving layers together
	Wall    time.Duration // from begin to end

	blocked  time.Duration // inflate waited for hash or write
	lastHash float64       // share of blocked that was hash's
}

// Limit says which phase bounded a pull: what the goroutines that inflate, one for
// each layer at work, spent their time on. They are the middle of the pipeline: they
// wait for the network in front of them, or for hash or write behind them, or work.
type Limit struct {
	Phase string  `json:"phase"` // "network", "inflate", "hash" or "write"; "" when nothing was unpacked
	Share float64 `json:"share"` // of that time, 0 to 1
	Next  string  `json:"next"`  // the phase after it
	// NextShare is what the next phase took: Share - NextShare is how much the limit
	// stood out.
	NextShare float64 `json:"next_share"`
}

// limit finds the phase that took most.
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
	Bytes    int64 `json:"bytes"` // received of bodies
}

// MarshalJSON gives seconds, to the microsecond.
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

// add sums phases.
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

// Progress is told how a pull goes on. Its methods are called from several
// goroutines at once and must not block: the pull waits for them.
type Progress interface {
	// Start is called once, when it is known what to fetch: the compressed size of
	// each layer, 0 for one that need not be fetched.
	Start(reference string, layers []int64)
	// Advance tells of bytes received (compressed) or inflated (tar) of a layer. They
	// are negative when bytes proved wrong and are fetched again from elsewhere.
	Advance(layer int, compressed, tar int64)
	// Done tells that a layer is unpacked and verified.
	Done(layer int)
}

type silent struct{}

func (silent) Start(string, []int64)     {}
func (silent) Advance(int, int64, int64) {}
func (silent) Done(int)                  {}
