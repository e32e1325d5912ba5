package soci_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/internal/testport"
	"github.com/penstock/penstock/soci"
)

var testTime = time.Unix(1_700_000_000, 0)

// serve runs a handler on loopback.
func serve(t *testing.T, h http.Handler) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", testport.Addr(t))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	return l.Addr().String(), func() { _ = s.Close(); wg.Wait() }
}

// mirrors are origins with one image, behind the name of a registry that does
// not exist. The last one stands for the registry itself.
func mirrors(t *testing.T, folder string, os_ ...*testorigin.Origin) (ref string, with func(*soci.Options)) {
	t.Helper()
	img := mediumImage(t)
	var toml strings.Builder
	fmt.Fprintf(&toml, "server = %q\n", os_[len(os_)-1].URL())
	for i, o := range os_ {
		push(t, o, folder+":1", img)
		if i < len(os_)-1 {
			fmt.Fprintf(&toml, "[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", o.URL())
		}
	}
	dir := t.TempDir()
	at := filepath.Join(dir, "registry.example")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(at, "hosts.toml"), []byte(toml.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return "registry.example/" + folder + ":1", func(o *soci.Options) { o.HostsDir = dir }
}

// TestMirrorDies checks that the missing parts of a dying mirror come from the
// next host, and that received parts are not requested again.
func TestMirrorDies(t *testing.T) {
	dying := origin(t, testorigin.Options{})
	good := origin(t, testorigin.Options{})
	ref, with := mirrors(t, "go/tree", dying, good)
	dying.SetFaults(
		testorigin.Fault{Op: "GetBlob", After: 2, Action: testorigin.ActReset, At: 50_000},
		testorigin.Fault{Op: "GetBlob", After: 4, Action: testorigin.ActReset},
	)
	dir, clean := target(t)
	res, err := puller(t, with).Pull(t.Context(), ref, dir)
	if err != nil {
		t.Fatal(err)
	}
	checkMedium(t, dir)
	clean("root")
	if dying.TotalBytes("go/tree@") == 0 || good.TotalBytes("go/tree@") == 0 {
		t.Errorf("%d bytes from the mirror, %d from the registry", dying.TotalBytes("go/tree@"), good.TotalBytes("go/tree@"))
	}
	if most := res.CompressedBytes + res.Network.Hedges*partBytes + res.CompressedBytes/50; res.Network.Bytes > most {
		t.Errorf("%d bytes received for %d", res.Network.Bytes, res.CompressedBytes)
	}
}

// TestWrongMirror checks that a mirror with wrong bytes is named, that the
// layer comes from another host, and that the mirror is asked last from then
// on.
func TestWrongMirror(t *testing.T) {
	wrong := origin(t, testorigin.Options{})
	good := origin(t, testorigin.Options{})
	ref, with := mirrors(t, "go/tree", wrong, good)
	layers, _ := mediumImage(t).Layers()
	digest, _ := layers[0].Digest()
	wrong.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "*@" + digest.String(), Every: 1, Action: testorigin.ActFlip, At: 5_000})
	prog := &progress{}
	p := puller(t, func(o *soci.Options) { with(o); o.Progress = prog })
	dir, clean := target(t)
	res, err := p.Pull(t.Context(), ref, dir)
	if err != nil {
		t.Fatal(err)
	}
	checkMedium(t, dir)
	clean("root")
	if w := strings.Join(res.Warnings, "; "); !strings.Contains(w, wrong.Host()+" sent wrong bytes for "+digest.String()) {
		t.Errorf("warnings %q", w)
	}
	if prog.compressed != res.CompressedBytes || prog.tar != res.TarBytes {
		t.Errorf("progress %d %d of %d %d", prog.compressed, prog.tar, res.CompressedBytes, res.TarBytes)
	}
	if p.Stats().Wrong == 0 {
		t.Errorf("%+v", p.Stats())
	}
	// The mirror is not asked again while the other one answers.
	wrong.Reset()
	dir, _ = target(t)
	if _, err := p.Pull(t.Context(), ref, dir); err != nil {
		t.Fatal(err)
	}
	if n := wrong.Count("GetBlob", "go/tree@"+digest.String()); n.Requests > 0 {
		t.Errorf("the wrong mirror was asked again: %+v", n)
	}

	// If all are wrong, the last one is named, and no files are left.
	good.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "*@" + digest.String(), Every: 1, Action: testorigin.ActFlip, At: 5_000})
	wantError(t, puller(t, with), ref, soci.ErrDigest, "expected "+digest.String(), "got sha256:", good.Host())
}

// TestRetryAfter checks that both forms of Retry-After are obeyed.
func TestRetryAfter(t *testing.T) {
	const wish = 20 * time.Second
	for _, date := range []bool{false, true} {
		for _, status := range []int{429, 503} {
			inBubble(t, testorigin.Options{}, func(t *testing.T, o *testorigin.Origin, ref string, p *soci.Puller) {
				t.Helper()
				o.SetFaults(testorigin.Fault{
					Op: "GetBlob", Key: "*@" + digest.FromBytes(medium()[0]).String(), Nth: 1, Action: testorigin.ActStatus, Status: status,
					RetryAfter: wish, RetryDate: date,
				})
				dir, _ := target(t)
				res, err := p.Pull(t.Context(), ref, dir)
				if err != nil {
					t.Fatal(err)
				}
				// A date has whole seconds, so the rest of the first second is
				// lost.
				if d := res.Timing.Wall; d < wish-time.Second || d > wish+time.Second || p.Stats().Throttled != 1 || res.Network.Retries != 1 {
					t.Errorf("status %d, date %v: %v, %+v", status, date, d, p.Stats())
				}
			})
		}
	}
}

// TestSilentBody checks that a body that falls silent is resumed at that byte
// on another connection, and that only hedged bytes arrive twice.
func TestSilentBody(t *testing.T) {
	const silent = 3 // of the first requests, which is more than may be hedged
	inBubble(t, testorigin.Options{}, func(t *testing.T, o *testorigin.Origin, ref string, p *soci.Puller) {
		t.Helper()
		o.SetFaults(testorigin.Fault{Op: "GetBlob", After: 1, Max: silent, Every: 1, Action: testorigin.ActStall, At: 100_000})
		dir, clean := target(t)
		res, err := p.Pull(t.Context(), ref, dir)
		if err != nil {
			t.Fatal(err)
		}
		checkMedium(t, dir)
		clean("root")
		if st := p.Stats(); st.Stalls == 0 || st.Stalls+st.Hedges < silent {
			t.Errorf("%+v", st)
		}
		var sent int64
		for _, l := range res.Layers {
			sent += o.Count("GetBlob", "go/tree@"+l.Digest).Bytes
		}
		if most := res.CompressedBytes + 64<<10 + res.Network.Hedges*partBytes; sent < res.CompressedBytes || sent > most {
			t.Errorf("%d bytes sent for %d: more than %d", sent, res.CompressedBytes, most)
		}
		if d := res.Timing.Wall; d > 15*time.Second { // one StallTimeout for all, and the remaining parts
			t.Errorf("took %v", d)
		}
	})
}

// TestRangeRefused checks that 416 for existing bytes, and multipart answers,
// fail the pull without endless retries.
func TestRangeRefused(t *testing.T) {
	o := origin(t, testorigin.Options{})
	l := gzLayer(goTree(t, "archive"))
	ref := push(t, o, "refused:1", image(t, here, l))
	digest, _ := l.Digest()
	key := "*@" + digest.String()
	o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: key, Every: 1, Action: testorigin.ActStatus, Status: 416})
	e := wantError(t, puller(t, nil), ref, nil, "beyond the end", "bytes 0-", digest.String())
	if e.Len == 0 || e.Status != 416 {
		t.Errorf("%+v", e)
	}
	o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: key, Every: 1, Action: testorigin.ActMultipart})
	wantError(t, puller(t, nil), ref, nil, "multipart")
	o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: key, Every: 1, Action: testorigin.ActWrongTotal, Bytes: 1})
	wantError(t, puller(t, nil), ref, soci.ErrDigest, "the manifest says")
}

// TestURLsNeverValid checks that a pull whose presigned URLs are all refused
// fails after a few requests.
func TestURLsNeverValid(t *testing.T) {
	o := origin(t, testorigin.Options{Registry: testorigin.RegistryOptions{RedirectBlobs: true, RedirectTTL: -time.Second}})
	ref := push(t, o, "expired:1", image(t, here, gzLayer(tarOf(t, "f", "x"))))
	wantError(t, puller(t, nil), ref, soci.ErrDenied, "refused the request")
	var asked int64
	for _, c := range o.Counters() {
		if c.Op == "FetchBlob" {
			asked += c.Requests
		}
	}
	if asked == 0 || asked > 10 {
		t.Errorf("%d requests", asked)
	}
}

// TestCombinedFaults combines the faults: 1 % truncated bodies, 1 % 503,
// presigned URLs that keep expiring, a mirror that dies. At most 2 % of the
// bytes are sent again.
func TestCombinedFaults(t *testing.T) {
	var clock atomic.Int64 // seconds; each request takes ten, so that URLs expire after three
	opts := testorigin.Options{
		Seed:     7,
		Registry: testorigin.RegistryOptions{RedirectBlobs: true, RedirectTTL: 30 * time.Second, Auth: "token"},
		Now:      func() time.Time { return time.Now().Add(time.Duration(clock.Load()) * time.Second) },
		Tap: func(e testorigin.Event) {
			if !e.Done && e.Op == "FetchBlob" {
				clock.Add(10)
			}
		},
	}
	mirror, registry := origin(t, opts), origin(t, opts)
	ref, with := mirrors(t, "go/tree", mirror, registry)
	day := []testorigin.Fault{
		{Op: "FetchBlob", Probability: 0.01, Action: testorigin.ActTruncate, At: testorigin.AtRandom},
		{Op: "FetchBlob", Probability: 0.01, Action: testorigin.ActStatus, Status: 503},
	}
	const rounds = 6 // one image takes few requests
	var pulled, again, expired int64
	for round := range rounds {
		mirror.SetFaults(append(day, testorigin.Fault{Op: "*Blob", After: 3, Action: testorigin.ActReset})...)
		registry.SetFaults(day...)
		dir, clean := target(t)
		p := puller(t, with)
		res, err := p.Pull(t.Context(), ref, dir)
		if err != nil {
			t.Fatal("round ", round, ": ", err)
		}
		if round == 0 {
			checkMedium(t, dir)
		}
		clean("root")
		pulled += res.CompressedBytes
		again += max(0, res.Network.Bytes-res.CompressedBytes-p.Stats().Hedges*partBytes)
	}
	for _, c := range registry.Counters() {
		if c.Op == "FetchBlob" {
			expired += c.Requests - c.Success
		}
	}
	t.Logf("%d bytes pulled, %d received again (%.2f %%), %d URLs refused", pulled, again, 100*float64(again)/float64(pulled), expired)
	if expired == 0 {
		t.Error("no URL ran out")
	}
	// Manifests and configs count as received, some 10 KB in each round.
	if again > pulled/50+rounds*16<<10 {
		t.Errorf("%d of %d bytes were received again: more than 2 %%", again, pulled)
	}
}
