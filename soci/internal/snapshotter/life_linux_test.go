package snapshotter_test

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

// held is a registry that holds back the answers for one blob until let is called.
type held struct {
	*testorigin.Origin
	asked chan struct{} // closed at the first request for the blob
	let   func()
}

// hold starts a registry; key returns the counter key of the blob to hold, ""
// for none.
func hold(t *testing.T, key func() string) *held {
	t.Helper()
	h := &held{asked: make(chan struct{})}
	gate := make(chan struct{})
	var first sync.Once
	h.let = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(h.let)
	h.Origin = origin(t, testorigin.Options{Tap: func(e testorigin.Event) {
		if e.Op == "GetBlob" && e.Key == key() && !e.Done {
			first.Do(func() { close(h.asked) })
			<-gate
		}
	}})
	return h
}

// value returns the sum of a metric over its labels.
func value(t *testing.T, reg *prometheus.Registry, name string, label ...string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "penstock_snapshotter_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			if len(label) == 0 || has(m, label[0]) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func has(m *dto.Metric, value string) bool {
	for _, l := range m.GetLabel() {
		if l.GetValue() == value {
			return true
		}
	}
	return false
}

// until waits for a condition on the disk or in a counter.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for tick := time.Tick(2 * time.Millisecond); !ok(); {
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatal("not within the time limit: ", what)
		}
	}
}

// TestPrivRestart ends the daemon while the top layer is in work, and checks
// that the next run fetches only that layer and leaves no other files.
func TestPrivRestart(t *testing.T) {
	root(t)
	var m image
	o := hold(t, func() string {
		if m.layers == nil {
			return ""
		}
		return "app@" + m.layers[2]
	})
	pushed := push(t, o.Origin, "app:1", three(t)...)
	m = pushed
	dir := t.TempDir()
	p := puller(t, nil)
	first, err := snapshotter.New(snapshotter.Options{Root: dir, Puller: p})
	if err != nil {
		t.Fatal(err)
	}
	asking := make(chan error)
	go func() {
		_, err := m.prepare(t.Context(), first, 0)
		asking <- err
	}()
	<-o.asked
	until(t, "two layers are ready", func() bool { return len(names(t, dir, "ready")) == 2 })
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := <-asking; !errors.Is(err, snapshotter.ErrClosed) {
		t.Errorf("%v; want that it is being stopped", err)
	}
	o.let()
	// Leftovers of kill -9: a layer in work, half a record, and two snapshots
	// that were never committed, one of them whole.
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "work", "sha256-x", "fs"), 0o755))
	must(os.MkdirAll(filepath.Join(dir, "ready", "sha256-y", "fs"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "ready", "sha256-y", "layer.json"), []byte(`{"version":1,"cha`), 0o600))
	must(os.MkdirAll(filepath.Join(dir, "snapshots", "98", "fs"), 0o755))
	whole := filepath.Join(dir, "snapshots", "99")
	must(os.MkdirAll(filepath.Join(whole, "fs"), 0o755))
	must(os.WriteFile(filepath.Join(whole, "layer.json"), []byte(`{"version":1,"chain":"`+digestOf('a')+`","digest":"`+digestOf('b')+`","bytes":4096,"inodes":1}`), 0o600))

	o.Reset()
	s := open(t, dir, func(o *snapshotter.Options) { o.Puller = p })
	if got := names(t, dir, "ready"); len(got) != 3 || !slices.Contains(got, "sha256-"+digestOf('a')[7:]) {
		t.Errorf("ready: %v", got)
	}
	if got := names(t, dir, "snapshots"); len(got) != 0 {
		t.Errorf("snapshots: %v", got)
	}
	exist(t, s, m, 0)
	for i, l := range m.layers[:2] {
		if n := o.Count("GetBlob", "app@"+l).Requests; n != 0 {
			t.Errorf("layer %d was asked for again", i)
		}
	}
	if left := names(t, dir, "work"); len(left) > 0 {
		t.Errorf("work: %v", left)
	}
}

// TestPrivReadyLayers checks that the next run takes over unclaimed ready
// layers.
func TestPrivReadyLayers(t *testing.T) {
	root(t)
	for _, noSync := range []bool{false, true} {
		o := origin(t, testorigin.Options{})
		m := push(t, o, "app:1", three(t)...)
		dir := t.TempDir()
		first := open(t, dir, func(o *snapshotter.Options) { o.NoSync = noSync })
		exist(t, first, image{m.ref, m.manifest, m.layers[:1], m.chains[:1], m.sizes[:1]}, 0)
		until(t, "both are ready", func() bool { return len(names(t, dir, "ready")) == 2 })
		if err := first.Close(); err != nil {
			t.Error(err)
		}
		o.Reset()
		reg := prometheus.NewRegistry()
		s := open(t, dir, func(o *snapshotter.Options) { o.Keep, o.Metrics, o.NoSync = time.Hour, reg, noSync })
		if n := value(t, reg, "layers"); n != 2 {
			t.Errorf("%v layers were taken over, want 2", n)
		}
		s.Expire(time.Now())
		exist(t, s, m, 1)
		if n := o.TotalBytes("app@" + m.layers[1]); n != 0 {
			t.Errorf("%d bytes were fetched again", n)
		}
	}
}

// TestPrivAbandoned checks that a pull ends when no caller waits for it, and
// that its layers stay for a while, so that a layer that waited for a lower one
// is not fetched again.
func TestPrivAbandoned(t *testing.T) {
	root(t)
	var m image
	o := hold(t, func() string {
		if m.layers == nil {
			return ""
		}
		return "app@" + m.layers[0]
	})
	pushed := push(t, o.Origin, "app:1",
		gzipped(t, goTree(t, "strings")),
		gzipped(t, archive(t, tar.Header{Name: "etc/a"}, "one")))
	m = pushed
	dir := t.TempDir()
	reg := prometheus.NewRegistry()
	s := open(t, dir, func(o *snapshotter.Options) { o.Linger, o.Metrics, o.Keep = -1, reg, time.Hour })
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error)
	for range 2 { // the pull continues when one of two callers leaves
		go func() {
			_, err := m.prepare(ctx, s, 0)
			asked <- err
		}()
	}
	<-o.asked
	one, gone := context.WithCancel(t.Context())
	go func() {
		_, err := m.prepare(one, s, 0)
		asked <- err
	}()
	gone()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := value(t, reg, "layers_total", "cancelled"); n != 0 {
		t.Errorf("%v layers were cancelled", n)
	}
	until(t, "the upper layer is finished", func() bool { return len(names(t, dir, "parts")) == 1 })
	cancel()
	for range 2 {
		if err := <-asked; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	until(t, "the layers are cancelled", func() bool { return value(t, reg, "layers_total", "cancelled") == 2 })
	until(t, "no image is pulled", func() bool { return value(t, reg, "images") == 0 })
	until(t, "one layer is in work", func() bool { return len(names(t, dir, "work")) == 1 })
	o.let()
	o.Reset()
	s.Expire(time.Now())
	exist(t, s, m, 0)
	if n := o.Count("GetBlob", "app@"+m.layers[1]).Requests; n != 0 {
		t.Errorf("a finished layer was asked for again, %d times", n)
	}
	if n := value(t, reg, "bytes_total", "resumed"); n != float64(m.sizes[1]) {
		t.Errorf("%v bytes were there from before, want %d", n, m.sizes[1])
	}
	wantNames(t, dir, "work")
	wantNames(t, dir, "parts")
}

// wantNames checks the layers in a directory of the root.
func wantNames(t *testing.T, dir, name string, chains ...string) {
	t.Helper()
	got := names(t, dir, name)
	for i := range got {
		got[i] = strings.Replace(got[i], "-", ":", 1)
	}
	slices.Sort(chains)
	if !slices.Equal(got, chains) {
		t.Errorf("%s holds %v, want %v", name, got, chains)
	}
}

// TestPrivRemoveDuringPull removes the lower layers while the top one is in
// work.
func TestPrivRemoveDuringPull(t *testing.T) {
	root(t)
	var m image
	o := hold(t, func() string {
		if m.layers == nil {
			return ""
		}
		return "app@" + m.layers[2]
	})
	layers := three(t)
	other := push(t, o.Origin, "app:base", layers[:2]...)
	pushed := push(t, o.Origin, "app:1", layers...)
	m = pushed
	dir := t.TempDir()
	s := open(t, dir, nil)
	exist(t, s, other, 0)
	asking := make(chan error)
	go func() {
		_, err := m.prepare(t.Context(), s, 2)
		asking <- err
	}()
	<-o.asked
	if err := s.Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(names(t, dir, "work")); n != 1 {
		t.Errorf("%d layers are in work, want 1", n)
	}
	for _, chain := range []string{other.chains[1], other.chains[0]} {
		if err := s.Remove(t.Context(), chain); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
	o.let()
	// Its parent is gone, so containerd must restart the pull.
	if err := <-asking; err == nil || errdefs.IsAlreadyExists(err) {
		t.Errorf("%v; want that a layer below is gone", err)
	}
	exist(t, s, m, 0)
}

// TestPrivExpire checks that unclaimed layers are removed.
func TestPrivExpire(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{})
	m := push(t, o, "app:1", three(t)...)
	dir := t.TempDir()
	reg := prometheus.NewRegistry()
	s := open(t, dir, func(o *snapshotter.Options) { o.Linger, o.Keep, o.Metrics = -1, time.Hour, reg })
	exist(t, s, image{m.ref, m.manifest, m.layers[:1], m.chains[:1], m.sizes[:1]}, 0)
	until(t, "no image is pulled", func() bool { return value(t, reg, "images") == 0 })
	until(t, "nothing is in work", func() bool { return len(names(t, dir, "work")) == 0 })
	kept := len(names(t, dir, "ready"))
	s.Expire(time.Now().Add(30 * time.Minute))
	if n := len(names(t, dir, "ready")); n != kept {
		t.Errorf("%d layers are ready, were %d", n, kept)
	}
	s.Expire(time.Now().Add(2 * time.Hour))
	if left := names(t, dir, "ready"); len(left) > 0 {
		t.Errorf("ready: %v", left)
	}
	exist(t, s, m, 1)
}

// TestPrivPrepareAgain checks that a layer can be prepared again after it was
// removed before containerd looked, and that an existing layer can be prepared
// any number of times.
func TestPrivPrepareAgain(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{})
	m := push(t, o, "app:1", three(t)...)
	s := open(t, t.TempDir(), nil)
	exist(t, s, m, 0)
	top := m.chains[2]
	if err := s.Remove(t.Context(), top); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), top); !errdefs.IsNotFound(err) {
		t.Errorf("a removed layer: %v", err)
	}
	o.Reset()
	for range 3 {
		exist(t, s, m, 2)
	}
	if n := o.TotalBytes("app@" + m.layers[2]); n != m.sizes[2] {
		t.Errorf("%d bytes were fetched for a layer of %d", n, m.sizes[2])
	}
	if n := o.TotalBytes("app@"+m.layers[0]) + o.TotalBytes("app@"+m.layers[1]); n != 0 {
		t.Errorf("%d bytes were fetched of layers that are there", n)
	}
}

func TestPrivClosed(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{})
	m := push(t, o, "app:1", three(t)...)
	s := open(t, t.TempDir(), nil)
	s.Stop()
	if _, err := m.prepare(t.Context(), s, 0); !errdefs.IsUnavailable(err) {
		t.Errorf("%v; want unavailable", err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}
