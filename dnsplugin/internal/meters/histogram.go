package meters

import (
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Prometheus's client cannot add many observations to a histogram at once, and
// adding one costs a third of a microsecond. So the fast path keeps its
// observations in histograms of its own, and adds them to CoreDNS's when those
// are collected. A series then covers the queries of both paths.

// SizeBounds are the bounds of the classic buckets of sizes in CoreDNS.
var SizeBounds = []float64{0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16e3, 32e3, 48e3, 64e3}

// nativeSchema is the resolution of CoreDNS's native buckets.
const nativeSchema = 4

// Histogram is a histogram of the fast path's observations.
type Histogram struct {
	bounds  []float64
	count   uint64
	sum     float64
	classic []uint64      // by bucket; the last one is above all bounds
	native  map[int]int64 // by index of the native bucket
}

// NewHistogram returns an empty histogram with classic buckets up to bounds.
func NewHistogram(bounds []float64) *Histogram {
	return &Histogram{bounds: bounds, classic: make([]uint64, len(bounds)+1), native: map[int]int64{}}
}

// AddSizes adds sizes, which must be above 0, with their native buckets.
func (b *Histogram) AddSizes(sizes *sizeCounts, native []uint32) {
	b.sum += float64(sizes.sum)
	for i, n := range sizes.classic {
		b.classic[i] += uint64(n)
		b.count += uint64(n)
	}
	for i, n := range native {
		if n > 0 {
			b.native[i] += int64(n)
		}
	}
}

// AddDurations adds d with its native buckets.
func (b *Histogram) AddDurations(d *durations) {
	b.count += d.Count
	b.sum += d.sum
	for i, n := range d.classic {
		b.classic[i] += n
	}
	for i, n := range d.native {
		if n > 0 {
			b.native[i+firstOctave*perOctave] += int64(n)
		}
	}
}

// Clone returns a copy for use without the publisher's lock.
func (b *Histogram) Clone() *Histogram {
	c := *b
	c.classic, c.native = slices.Clone(b.classic), maps.Clone(b.native)
	return &c
}

// addTo adds b to h, which has the same bounds.
func (b *Histogram) addTo(h *dto.Histogram) {
	h.SampleCount = new(h.GetSampleCount() + b.count)
	h.SampleSum = new(h.GetSampleSum() + b.sum)
	cumulative := uint64(0)
	for i, bucket := range h.Bucket {
		if i < len(b.classic) {
			cumulative += b.classic[i]
		}
		bucket.CumulativeCount = new(bucket.GetCumulativeCount() + cumulative)
	}
	if h.Schema == nil || h.GetSchema() != nativeSchema {
		return // there is no native histogram of this resolution to add to
	}
	all := maps.Clone(b.native)
	eachNative(h, func(i int, n int64) { all[i] += n })
	h.PositiveSpan, h.PositiveDelta = spansOf(all)
}

// eachNative calls f for every populated positive native bucket of h.
func eachNative(h *dto.Histogram, f func(i int, n int64)) {
	i, at, n := 0, 0, int64(0)
	for _, span := range h.PositiveSpan {
		i += int(span.GetOffset())
		for range span.GetLength() {
			n += h.PositiveDelta[at]
			f(i, n)
			i++
			at++
		}
	}
}

// spansOf encodes native buckets as runs, in which each bucket is the difference
// from its predecessor. It fills gaps of up to two with empty buckets.
func spansOf(buckets map[int]int64) (spans []*dto.BucketSpan, deltas []int64) {
	next, before := 0, int64(0)
	add := func(n int64) {
		span := spans[len(spans)-1]
		span.Length = new(span.GetLength() + 1)
		deltas = append(deltas, n-before)
		before = n
	}
	for _, i := range slices.Sorted(maps.Keys(buckets)) {
		if gap := i - next; len(spans) == 0 || gap > 2 {
			spans = append(spans, &dto.BucketSpan{Offset: new(int32(gap)), Length: new(uint32(0))})
		} else {
			for range gap {
				add(0)
			}
		}
		add(buckets[i])
		next = i + 1
	}
	return spans, deltas
}

// Merged collects a family of histograms and adds the fast path's observations.
type Merged struct {
	Vec  *prometheus.HistogramVec
	Ours func() map[string]*Histogram // by LabelKey; the caller may keep the map
}

// Describe implements prometheus.Collector.
func (h *Merged) Describe(ch chan<- *prometheus.Desc) { h.Vec.Describe(ch) }

// Collect implements prometheus.Collector.
func (h *Merged) Collect(ch chan<- prometheus.Metric) {
	ours := h.Ours()
	theirs := make(chan prometheus.Metric)
	go func() {
		defer close(theirs)
		h.Vec.Collect(theirs)
	}()
	for m := range theirs {
		out := &dto.Metric{}
		if err := m.Write(out); err != nil {
			ch <- prometheus.NewInvalidMetric(m.Desc(), err)
			continue
		}
		var values []string
		for _, l := range out.Label {
			values = append(values, l.GetValue())
		}
		if b := ours[LabelKey(values)]; b != nil && out.Histogram != nil {
			b.addTo(out.Histogram)
		}
		ch <- collected{m.Desc(), out}
	}
}

// collected is a metric with a fixed value.
type collected struct {
	desc *prometheus.Desc
	as   *dto.Metric
}

// Desc implements prometheus.Metric.
func (c collected) Desc() *prometheus.Desc { return c.desc }

// Write implements prometheus.Metric.
func (c collected) Write(out *dto.Metric) error {
	out.Label, out.Histogram = c.as.Label, c.as.Histogram
	return nil
}

// LabelKey joins label values, which are addresses and names without NUL bytes.
func LabelKey(values []string) string { return strings.Join(values, "\x00") }
