package dnsplugin

import (
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/front"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// manyZones is a server of n zones with the given number of workers.
func manyZones(n, workers int) *front.Server {
	f := &front.Server{}
	for i := range n {
		f.Zones = append(f.Zones, &front.Zone{ZonePlan: &front.ZonePlan{Zone: meters.Zone{Counted: true, Index: i}}})
	}
	for _, tcp := range []bool{false, true} {
		for range workers + 1 {
			w := f.NewWorker(tcp)
			if tcp {
				f.Streams = append(f.Streams, w)
			} else {
				f.Workers = append(f.Workers, w)
			}
		}
	}
	return f
}

// If each worker of 64 CPUs answers for each of 1,000 zones, over UDP and TCP, before
// and after a scrape, no query is lost and the counters stay within their bound.
func TestCountersStayWithinTheirBound(t *testing.T) {
	const zones, cpus, bound = 1000, 64, 33 << 20
	if s := unsafe.Sizeof(meters.ZoneCounts{}); s > 5<<10 {
		t.Errorf("%d bytes for a zone", s)
	}
	f := manyZones(zones, cpus)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	q := &wire.Query{Type: dns.TypeA}
	for range 2 { // both sets of each worker
		for _, w := range slices.Concat(f.Workers, f.Streams) {
			for _, z := range f.Zones {
				w.CountHit(&z.Zone, sides.Success, dns.RcodeSuccess, 100, false)
				w.CountQuery(&z.Zone, q, 40, true)
			}
			w.CountDuration(time.Microsecond)
			if w.Cur.Own > meters.OwnZones {
				t.Fatalf("%d zones of its own", w.Cur.Own)
			}
			w.Cur, w.Spare = w.Spare, w.Cur
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > bound {
		t.Errorf("%d MiB of counters, the bound is %d", grown>>20, bound>>20)
	}
	n, asked := uint64(0), uint64(0)
	add := func(zc *meters.ZoneCounts) {
		if zc != nil {
			n += zc.Success
			asked += zc.Durations.Count
		}
	}
	for _, w := range slices.Concat(f.Workers, f.Streams) {
		for _, c := range []*meters.CounterSet{w.Cur, w.Spare} {
			for _, zc := range c.Zones {
				add(zc)
			}
		}
	}
	for _, shared := range [][]meters.SharedCounts{f.SharedUDP, f.SharedTCP} {
		for i := range shared {
			add(shared[i].Counts)
		}
	}
	if want := uint64(2 * 2 * (cpus + 1) * zones); n != want || asked != want {
		t.Errorf("%d and %d counted, want %d", n, asked, want)
	}
	runtime.KeepAlive(f)
}

// A zone that is not asked for between two scrapes leaves its room to others.
func TestIdleZonesLeaveTheirCounters(t *testing.T) {
	f := manyZones(meters.OwnZones+1, 1)
	w := f.Workers[0]
	p := &front.Publisher{Histograms: map[string]map[string]*meters.Histogram{}}
	m := cacheOf(t, Config{}, nil).meters.Of("dns://192.0.2.1:53")
	for _, z := range f.Zones {
		z.Meters, z.Counted = m, false
		w.CountHit(&z.Zone, sides.Success, dns.RcodeSuccess, 100, false)
	}
	last := f.Zones[meters.OwnZones]
	if w.Cur.Zones[last.Index] != nil || f.SharedUDP[last.Index].Counts == nil {
		t.Error("one zone too many has counters of its own")
	}
	p.Drain(f, w.Cur, "udp")
	p.DrainShared(f, f.SharedUDP, "udp")
	p.Drain(f, w.Cur, "udp") // nothing in between
	if w.Cur.Own != 0 || f.SharedUDP[last.Index].Counts != nil {
		t.Errorf("%d are left", w.Cur.Own)
	}
	w.CountHit(&last.Zone, sides.Success, dns.RcodeSuccess, 100, false)
	if w.Cur.Zones[last.Index] == nil {
		t.Error("the room is not used")
	}
	if got := value(t, m.Requests); got != meters.OwnZones+1 {
		t.Errorf("%v requests", got)
	}
}
