package snapshotter

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/soci"
)

// metrics are the metrics of the daemon, see docs/metrics.md.
type metrics struct {
	reg       prometheus.Registerer
	all       []prometheus.Collector
	layers    *prometheus.CounterVec
	fallbacks *prometheus.CounterVec
	volume    *prometheus.CounterVec
	commits   prometheus.Counter
	yields    prometheus.Counter
	wait      prometheus.Histogram
}

const namespace = "penstock_snapshotter"

func newMetrics(reg prometheus.Registerer, s *Snapshotter) (*metrics, error) {
	m := &metrics{
		reg: reg,
		layers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "layers_total", Help: "Layers fetched, by outcome: ready, failed, cancelled.",
		}, []string{"outcome"}),
		fallbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "fallbacks_total", Help: "Layers left to containerd, by reason.",
		}, []string{"reason"}),
		volume: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "bytes_total", Help: "Bytes of layers by kind: compressed bytes received, tar bytes inflated, and compressed bytes received by an earlier run (resumed).",
		}, []string{"kind"}),
		commits: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "commits_total", Help: "Fetched layers that became snapshots.",
		}),
		yields: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "yields_total", Help: "Slow layers that gave their slot to another image, or resumed from another image that has them.",
		}),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "prepare_seconds", Help: "Time that containerd waited for a fetched layer, in seconds.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10), // seconds: 1 ms to 4 min
		}),
	}
	for _, o := range []string{"ready", "failed", "cancelled"} {
		m.layers.WithLabelValues(o)
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return float64(value())
		})
	}
	m.all = []prometheus.Collector{
		m.layers, m.fallbacks, m.volume, m.commits, m.yields, m.wait,
		gauge("images", "Images being pulled.", func() int { return len(s.byName) }),
		gauge("queued", "Layers that wait for a slot.", func() int { return s.slots.queued() }),
		gauge("layers", "Layers in work or ready that are not snapshots yet.", func() int { return len(s.layers) }),
	}
	m.all = append(m.all, pullerMetrics(s.opts.Puller.Stats)...)
	if reg == nil {
		return m, nil
	}
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			m.all = m.all[:i]
			m.unregister()
			return nil, err
		}
	}
	return m, nil
}

// pullerMetrics returns the metrics of the Puller.
func pullerMetrics(stats func() soci.Stats) []prometheus.Collector {
	counter := func(name, help string, value func(soci.Stats) int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help},
			func() float64 { return float64(value(stats())) })
	}
	gauge := func(name, help string, value func(soci.Stats) int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help},
			func() float64 { return float64(value(stats())) })
	}
	return []prometheus.Collector{
		counter("requests_total", "Requests for parts of layers, including hedges and retries.", func(s soci.Stats) int64 { return s.Requests }),
		counter("retries_total", "Parts requested again after a failure.", func(s soci.Stats) int64 { return s.Retries }),
		counter("hedges_total", "Late parts requested a second time.", func(s soci.Stats) int64 { return s.Hedges }),
		counter("throttled_total", "Answers that asked for fewer requests (429, 503).", func(s soci.Stats) int64 { return s.Throttled }),
		counter("stalls_total", "Requests ended because no bytes arrived.", func(s soci.Stats) int64 { return s.Stalls }),
		counter("received_bytes_total", "Bytes of bodies.", func(s soci.Stats) int64 { return s.Received }),
		counter("again_bytes_total", "Bytes of bodies that arrived a second time.", func(s soci.Stats) int64 { return s.Again }),
		counter("wrong_total", "Attempts at layers whose bytes did not match the digest.", func(s soci.Stats) int64 { return s.Wrong }),
		gauge("memory_bytes", "Bytes of buffers in use.", func(s soci.Stats) int64 { return s.MemoryUse }),
		gauge("memory_limit_bytes", "Bytes that buffers may take.", func(s soci.Stats) int64 { return s.MemoryLimit }),
	}
}

func (m *metrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}

func (m *metrics) layerDone(err error) {
	switch {
	case err == nil:
		m.layers.WithLabelValues("ready").Inc()
	case errors.Is(err, errAbandoned), errors.Is(err, ErrClosed), errors.Is(err, context.Canceled):
		m.layers.WithLabelValues("cancelled").Inc()
	default:
		m.layers.WithLabelValues("failed").Inc()
	}
}

func (m *metrics) bytes(compressed, tar int64) {
	if compressed > 0 {
		m.volume.WithLabelValues("compressed").Add(float64(compressed))
	}
	if tar > 0 {
		m.volume.WithLabelValues("tar").Add(float64(tar))
	}
}

func (m *metrics) resumed(compressed int64) {
	m.volume.WithLabelValues("resumed").Add(float64(max(0, compressed)))
}

func (m *metrics) fellBack(reason string) { m.fallbacks.WithLabelValues(reason).Inc() }
func (m *metrics) committed()             { m.commits.Inc() }
func (m *metrics) prepared(since time.Time) {
	m.wait.Observe(time.Since(since).Seconds())
}
