package soci_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// TestSameLayerTwice checks that a layer that an image has twice is fetched
// once.
func TestSameLayerTwice(t *testing.T) {
	o := origin(t, testorigin.Options{})
	twice := gzLayer(goTree(t, "strings"))
	ref := push(t, o, "twice:1", image(t, here, twice, gzLayer(tarOf(t, "go/.wh.strings", "", "f", "x")), twice))
	digest, _ := twice.Digest()
	for name, pull := range map[string]func(*soci.Puller, string) (*soci.Result, error){
		"root":   func(p *soci.Puller, dir string) (*soci.Result, error) { return p.Pull(t.Context(), ref, dir) },
		"layers": func(p *soci.Puller, dir string) (*soci.Result, error) { return p.PullLayers(t.Context(), ref, dir) },
	} {
		o.Reset()
		dir, clean := target(t)
		res, err := pull(puller(t, nil), dir)
		if err != nil {
			t.Fatal(err)
		}
		clean("root")
		top := dir
		if name == "layers" {
			top = res.Layers[2].Dir
		}
		sameTree(t, "strings", filepath.Join(top, "go", "strings"))
		if sent := o.Count("GetBlob", "twice@"+digest.String()).Bytes; sent != int64(len(twice.data)) {
			t.Errorf("%s: %d bytes of the layer for %d", name, sent, len(twice.data))
		}
		if res.Layers[0].Copy || !res.Layers[2].Copy || res.Layers[2].Files != res.Layers[0].Files {
			t.Errorf("%s: %+v", name, res.Layers)
		}
		if want := res.Layers[0].CompressedBytes + res.Layers[1].CompressedBytes; res.CompressedBytes != want {
			t.Errorf("%s: %d compressed, want %d", name, res.CompressedBytes, want)
		}
	}
}

// together unpacks one layer n times concurrently and returns the errors. The
// registry answers when all wait for it. Calls with a cancel are cancelled
// before that.
func together(t *testing.T, o *testorigin.Origin, hold *sync.WaitGroup, p *soci.Puller, ref string, cancelled int, n int) []error {
	t.Helper()
	img, err := p.Resolve(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	o.Reset()
	hold.Add(1)
	errs := make([]error, n)
	var wg sync.WaitGroup
	gone := make(chan struct{})
	for i := range n {
		ctx, cancel := context.WithCancel(t.Context())
		if i == cancelled {
			go func() {
				for p.Waiting() < n {
					runtime.Gosched()
				}
				cancel()
			}()
		}
		wg.Go(func() {
			defer cancel()
			dir := filepath.Join(t.TempDir(), "layer")
			_, errs[i] = p.UnpackLayer(ctx, img, 0, dir, soci.UnpackOptions{})
			if i == cancelled {
				close(gone)
				if _, err := os.Lstat(dir); err == nil {
					t.Error("a cancelled layer is there")
				}
			} else if errs[i] == nil {
				sameTree(t, "net/http", filepath.Join(dir, "go", "net", "http"))
			}
		})
	}
	if cancelled >= 0 {
		<-gone
	} else {
		for p.Waiting() < n {
			runtime.Gosched()
		}
	}
	hold.Done()
	wg.Wait()
	return errs
}

// TestSharedTransfer checks that concurrent requests for a layer share one
// fetch, and that a request that leaves, even the first one, does not end it
// for the others.
func TestSharedTransfer(t *testing.T) {
	var hold sync.WaitGroup
	o := origin(t, testorigin.Options{Tap: func(e testorigin.Event) {
		if e.Op == "GetBlob" && !e.Done && e.Range != "" {
			hold.Wait()
		}
	}})
	l := gzLayer(goTree(t, "net/http"))
	ref := push(t, o, "flight:1", image(t, here, l))
	digest, _ := l.Digest()
	for cancelled := -1; cancelled < 2; cancelled++ {
		p := puller(t, nil)
		errs := together(t, o, &hold, p, ref, cancelled, 2)
		for i, err := range errs {
			if i == cancelled && !errors.Is(err, context.Canceled) || i != cancelled && err != nil {
				t.Errorf("cancelled %d: %v", cancelled, errs)
			}
		}
		if sent := o.Count("GetBlob", "flight@"+digest.String()).Bytes; sent > int64(len(l.data))+p.Stats().Hedges*partBytes {
			t.Errorf("cancelled %d: %d bytes for a layer of %d", cancelled, sent, len(l.data))
		}
		if st := p.Stats(); st.Layers != 1 || st.Flights != 0 || st.Failed != 0 {
			t.Errorf("%+v", st)
		}
	}
}

// TestStore checks that blobs, config and manifest are stored in an image
// layout while they are pulled, from one fetch, and that wrong ones are not.
func TestStore(t *testing.T) {
	o := origin(t, testorigin.Options{})
	img := mediumImage(t)
	ref := push(t, o, "go/tree:1", img)
	where := filepath.Join(t.TempDir(), "oci")
	store, err := soci.OpenLayout(where)
	if err != nil {
		t.Fatal(err)
	}
	tee := func(o *soci.Options) { o.Store = store }
	dir, clean := target(t)
	res, err := puller(t, tee).Pull(t.Context(), ref, dir)
	if err != nil {
		t.Fatal(err)
	}
	checkMedium(t, dir)
	clean("root")
	for _, l := range res.Layers {
		if sent := o.Count("GetBlob", "go/tree@"+l.Digest).Bytes; sent > l.CompressedBytes+res.Network.Hedges*partBytes {
			t.Errorf("%d bytes for a blob of %d", sent, l.CompressedBytes)
		}
	}
	index, err := layout.ImageIndexFromPath(where)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	m, _ := index.IndexManifest()
	if len(m.Manifests) != 1 || m.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != ref || m.Manifests[0].Digest.String() != res.Manifest {
		t.Errorf("%+v", m)
	}
	// A second pull adds no blobs, and the reference stays unique.
	dir2, _ := target(t)
	if _, err := puller(t, tee).Pull(t.Context(), ref, dir2); err != nil {
		t.Fatal(err)
	}

	bad := gzLayer(tarOf(t, "f", strings.Repeat("x", 5000)))
	ref = push(t, o, "bad:1", image(t, here, bad))
	digest, _ := bad.Digest()
	o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "*@" + digest.String(), Every: 1, Action: testorigin.ActFlip, At: 20})
	wantError(t, puller(t, tee), ref, soci.ErrDigest)
	if _, err := os.Lstat(filepath.Join(where, "blobs", "sha256", digest.Hex)); err == nil {
		t.Error("a wrong blob is in the store")
	}
	blobs, _ := os.ReadDir(filepath.Join(where, "blobs", "sha256"))
	if index, err = layout.ImageIndexFromPath(where); err != nil || len(blobs) < 5 || strings.Contains(fmt.Sprint(blobs), ".penstock-") {
		t.Error(err, blobs)
	}
	if m, _ := index.IndexManifest(); len(m.Manifests) != 1 {
		t.Errorf("%+v", m)
	}
}

// TestForeignLayer checks that a layer missing in the registry comes from the
// URLs of the manifest, without credentials, and that the error names a layer
// without URLs.
func TestForeignLayer(t *testing.T) {
	l := gzLayer(goTree(t, "fmt"))
	var leaked bool
	var gets int
	var mu sync.Mutex
	addr, stop := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		gets++
		leaked = leaked || r.Header.Get("Authorization") != ""
		mu.Unlock()
		http.ServeContent(w, r, "", testTime, bytes.NewReader(l.data))
	}))
	defer stop()
	o := origin(t, testorigin.Options{Registry: testorigin.RegistryOptions{Auth: "token"}})
	l.mediaType = types.OCIRestrictedLayer
	img := image(t, here, l)
	m, _ := img.Manifest()
	push(t, o, "foreign:0", image(t, here)) // creates the repository
	config, _ := img.RawConfigFile()
	o.PutBlob("foreign", config)
	for _, tt := range []struct {
		urls []string
		as   error
	}{{[]string{"http://" + addr + "/nowhere-else"}, nil}, {nil, soci.ErrNotFound}, {[]string{"ftp://x/y"}, soci.ErrNotFound}} {
		m := m.DeepCopy()
		m.Layers[0].URLs = tt.urls
		raw, _ := json.Marshal(m)
		if _, err := o.PutManifest("foreign", "1", string(types.OCIManifestSchema1), raw); err != nil {
			t.Fatal(err)
		}
		ref := o.Host() + "/foreign:1"
		if tt.as != nil {
			wantError(t, puller(t, nil), ref, tt.as)
			continue
		}
		dir, _ := target(t)
		if _, err := puller(t, nil).Pull(t.Context(), ref, dir); err != nil {
			t.Fatal(err)
		}
		sameTree(t, "fmt", filepath.Join(dir, "go", "fmt"))
		if leaked || gets == 0 {
			t.Errorf("%d requests, with our credentials: %v", gets, leaked)
		}
	}
}

// TestSpecialLayers checks that eStargz and zstd:chunked layers are recognized
// by their annotations and unpacked as plain gzip and zstd.
func TestSpecialLayers(t *testing.T) {
	o := origin(t, testorigin.Options{})
	body := tarOf(t, "f", "x")
	est := gzLayer(body)
	chunked := &layer{tar: body, data: zstdOf(body), mediaType: types.OCILayerZStd}
	img, err := mutate.Append(image(t, here),
		mutate.Addendum{Layer: est, Annotations: map[string]string{"containerd.io/snapshot/stargz/toc.digest": "sha256:x"}},
		mutate.Addendum{Layer: chunked, MediaType: types.OCILayerZStd, Annotations: map[string]string{"io.github.containers.zstd-chunked.manifest-checksum": "sha256:x"}},
		mutate.Addendum{Layer: gzLayer(tarOf(t, "g", "y"))})
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := target(t)
	res, err := puller(t, nil).Pull(t.Context(), push(t, o, "special:1", img), dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"estargz", "zstd:chunked", ""} {
		if res.Layers[i].Special != want {
			t.Errorf("layer %d: %q, want %q", i, res.Layers[i].Special, want)
		}
	}
}
