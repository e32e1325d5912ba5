package snapshotter_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

// noise returns an incompressible layer.
func noise(t *testing.T, name string, bytes int) v1.Layer {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(len(name)), uint64(name[len(name)-1])))
	data := make([]byte, bytes)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return gzipped(t, archive(t, tar.Header{Name: name}, string(data)))
}

// slowImages returns images of a registry whose layers arrive at a byte per
// second, and a normal image there.
func slowImages(t *testing.T, o *testorigin.Origin, images, layers int) (slow []image, good image) {
	t.Helper()
	for i := range images {
		var all []v1.Layer
		for k := range layers {
			all = append(all, noise(t, fmt.Sprintf("slow-%d-%d", i, k), 64<<10))
		}
		slow = append(slow, push(t, o, fmt.Sprintf("slow%d:1", i), all...))
	}
	good = push(t, o, "good:1", noise(t, "good-a", 64<<10), noise(t, "good-b", 64<<10), noise(t, "good-c", 64<<10))
	var faults []testorigin.Fault
	for i, m := range slow {
		for _, l := range m.layers {
			faults = append(faults, testorigin.Fault{Op: "GetBlob", Key: fmt.Sprintf("slow%d@%s", i, l), Every: 1, Action: testorigin.ActSlow, Rate: 1})
		}
	}
	o.SetFaults(faults...)
	return slow, good
}

// TestPrivTrickle checks that images whose layers arrive at a byte per second
// do not delay other images, even if there are enough of them to fill all
// slots.
func TestPrivTrickle(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: waits for samples of slow layers")
	}
	root(t)
	for _, images := range []int{1, 2} {
		t.Run(fmt.Sprint(images), func(t *testing.T) {
			o := origin(t, testorigin.Options{})
			slow, good := slowImages(t, o, images, 3)
			reg := prometheus.NewRegistry()
			s := open(t, t.TempDir(), func(opts *snapshotter.Options) { opts.Layers, opts.Metrics = 2, reg })
			ctx, cancel := context.WithCancelCause(t.Context())
			var all sync.WaitGroup
			for _, m := range slow {
				started := make(chan struct{})
				all.Go(func() {
					close(started)
					if _, err := m.prepare(ctx, s, 0); !errors.Is(err, errEnough) {
						t.Errorf("a slow image: %v", err)
					}
				})
				<-started
			}
			until(t, "the slow layers are in work or in line", func() bool { return value(t, reg, "layers") == float64(3*images) })
			exist(t, s, good, 0)
			once(t, o, "good", good)
			cancel(errEnough)
			all.Wait()
			if images*3 > 4 && value(t, reg, "yields_total") == 0 {
				t.Error("no layer yielded, though there was room for 4")
			}
		})
	}
}

// TestPrivTrickleShared checks an image whose first layer is in work for
// another image, from a registry that sends a byte per second. It gets the
// layer from its own registry, with its own login, while the other image waits
// and after that pull has ended.
func TestPrivTrickleShared(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("short mode: waits for samples of slow layers")
	}
	root(t)
	for _, cancelled := range []bool{false, true} {
		t.Run(fmt.Sprintf("cancelled=%v", cancelled), func(t *testing.T) {
			t.Parallel()
			base := noise(t, "base", 64<<10)
			bad, own := origin(t, testorigin.Options{}), origin(t, testorigin.Options{Registry: testorigin.RegistryOptions{Auth: "basic"}})
			slow := push(t, bad, "slow:1", base, noise(t, "slow-own", 64<<10))
			good := push(t, own, "good:1", base, noise(t, "good-own", 64<<10))
			var faults []testorigin.Fault
			for _, l := range slow.layers {
				faults = append(faults, testorigin.Fault{Op: "GetBlob", Key: "slow@" + l, Every: 1, Action: testorigin.ActSlow, Rate: 1})
			}
			bad.SetFaults(faults...)
			reg := prometheus.NewRegistry()
			s := open(t, t.TempDir(), func(opts *snapshotter.Options) {
				opts.Metrics, opts.Linger = reg, -1
				opts.Puller = puller(t, func(o *soci.Options) {
					o.Credentials = func(ctx context.Context, host, repository string) (soci.Credential, error) {
						if host == own.Host() {
							return login(ctx, host, repository)
						}
						return soci.Credential{Username: "slow", Password: "of the slow registry"}, nil
					}
				})
			})
			ctx, cancel := context.WithCancelCause(t.Context())
			var first sync.WaitGroup
			first.Go(func() {
				if _, err := slow.prepare(ctx, s, 0); !errors.Is(err, errEnough) {
					t.Errorf("the slow image: %v", err)
				}
			})
			until(t, "the slow layers are asked for", func() bool {
				return !slices.ContainsFunc(bad.FaultCounts(), func(c testorigin.FaultCount) bool { return c.Fired == 0 })
			})
			second := make(chan error, 1)
			go func() {
				_, err := good.prepare(t.Context(), s, 0)
				second <- err
			}()
			if cancelled {
				until(t, "the good image has joined", func() bool { return value(t, reg, "layers") == 3 })
				cancel(errEnough)
			}
			if err := <-second; !errdefs.IsAlreadyExists(err) {
				t.Errorf("the shared layer: %v; want already exists", err)
			}
			exist(t, s, good, 1)
			once(t, own, "good", good)
			cancel(errEnough)
			first.Wait()
			if value(t, reg, "yields_total") == 0 {
				t.Error("the slow attempt did not yield")
			}
		})
	}
}

// TestPrivTrickleOtherPosition checks the same for a layer that the slow image
// has at another position, so that its chain ID differs although the blob is
// the same.
func TestPrivTrickleOtherPosition(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{})
	base := noise(t, "base", 64<<10)
	slow := push(t, o, "slow:1", noise(t, "slow-own", 64<<10), base)
	good := push(t, o, "good:1", base, noise(t, "good-own", 64<<10))
	o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "slow@" + slow.layers[1], Every: 1, Action: testorigin.ActSlow, Rate: 1})
	s := open(t, t.TempDir(), nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	var first sync.WaitGroup
	first.Go(func() {
		if _, err := slow.prepare(ctx, s, 0); !errors.Is(err, errEnough) {
			t.Errorf("the slow image: %v", err)
		}
	})
	until(t, "the slow layer is asked for", func() bool {
		return slices.ContainsFunc(o.FaultCounts(), func(c testorigin.FaultCount) bool { return c.Fired > 0 })
	})
	exist(t, s, good, 0)
	once(t, o, "good", good)
	cancel(errEnough)
	first.Wait()
}

// TestPrivSharedFails checks that a layer of two images comes from the
// repository of the second one, for both, if the repository of the first one
// refuses it or sends wrong bytes.
func TestPrivSharedFails(t *testing.T) {
	root(t)
	for _, fault := range []testorigin.Fault{
		{Action: testorigin.ActStatus, Status: 404},
		{Action: testorigin.ActFlip, Bytes: 1},
	} {
		t.Run(string(fault.Action), func(t *testing.T) {
			var key string
			o := hold(t, func() string { return key })
			base := noise(t, "base", 64<<10)
			bad := push(t, o.Origin, "bad:1", base, noise(t, "bad-own", 64<<10))
			good := push(t, o.Origin, "good:1", base, noise(t, "good-own", 64<<10))
			key = "bad@" + bad.layers[0]
			fault.Op, fault.Key, fault.Every = "GetBlob", key, 1
			o.SetFaults(fault)
			reg := prometheus.NewRegistry()
			s := open(t, t.TempDir(), func(opts *snapshotter.Options) { opts.Metrics = reg })
			ended := make(chan error, 2)
			ask := func(m image) {
				_, err := m.prepare(t.Context(), s, 0)
				ended <- err
			}
			go ask(bad)
			<-o.asked
			go ask(good)
			until(t, "the good image has joined", func() bool { return value(t, reg, "layers") == 3 })
			o.let()
			for range 2 {
				if err := <-ended; !errdefs.IsAlreadyExists(err) {
					t.Errorf("%v; want already exists", err)
				}
			}
			exist(t, s, good, 1)
			exist(t, s, bad, 1)
			if n := value(t, reg, "layers_total", "failed"); n != 0 {
				t.Errorf("%v layers failed", n)
			}
		})
	}
}

var errEnough = errors.New("enough seen")

// TestPrivCloseDuringHang closes the snapshotter while registries do not
// answer, at each kind of request. If Close waited for one of them, the test
// would hang.
func TestPrivCloseDuringHang(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{})
	m := push(t, o, "app:1", noise(t, "a", 64<<10))
	for _, fault := range []testorigin.Fault{
		{Op: "GetManifest", Every: 1, Action: testorigin.ActStall},
		{Op: "GetBlob", Every: 1, Action: testorigin.ActStall}, // the config
		{Op: "GetBlob", Key: "app@" + m.layers[0], Every: 1, Action: testorigin.ActStall},
	} {
		o.Reset()
		o.SetFaults(fault)
		s, err := snapshotter.New(snapshotter.Options{Root: t.TempDir(), Puller: puller(t, nil)})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := m.prepare(context.WithoutCancel(t.Context()), s, 0)
			ended <- err
		}()
		until(t, "the registry is asked", func() bool {
			return slices.ContainsFunc(o.FaultCounts(), func(c testorigin.FaultCount) bool { return c.Fired > 0 })
		})
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, snapshotter.ErrClosed) {
			t.Errorf("%+v: %v", fault, err)
		}
	}
}

// TestPrivStalled checks that a layer that receives almost no bytes fails and
// is left to containerd, which may have another source.
func TestPrivStalled(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: waits for a stall")
	}
	root(t)
	o := origin(t, testorigin.Options{})
	slow, good := slowImages(t, o, 1, 1)
	var said bytes.Buffer // written to before prepare returns
	s := open(t, t.TempDir(), func(opts *snapshotter.Options) {
		opts.Stall, opts.Log = time.Second, slog.New(slog.NewTextHandler(&said, nil))
	})
	if _, err := slow[0].prepare(t.Context(), s, 0); err != nil {
		t.Errorf("%v, want mounts for containerd to fill", err)
	}
	if log := said.String(); !strings.Contains(log, "less than 1024 bytes a second arrived for 1s") || !strings.Contains(log, "reason=fetch") {
		t.Errorf("it logged %q", log)
	}
	if _, err := s.Stat(t.Context(), slow[0].chains[0]); !errdefs.IsNotFound(err) {
		t.Errorf("a layer that never arrived: %v", err)
	}
	// The same with a manifest or a config.
	o.SetFaults(testorigin.Fault{Op: "GetManifest", Every: 1, Action: testorigin.ActSlow, Rate: 1}, testorigin.Fault{Op: "GetBlob", Every: 1, Action: testorigin.ActSlow, Rate: 1})
	if _, err := good.prepare(t.Context(), s, 0); err != nil {
		t.Errorf("%v, want mounts for containerd to fill", err)
	}
	if log := said.String(); !strings.Contains(log, "did not arrive in time") || !strings.Contains(log, "reason=unreachable") {
		t.Errorf("it logged %q", log)
	}
}
