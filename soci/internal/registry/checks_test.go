package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

// put stores an image unchanged.
func (l *lab) put(ref string, img v1.Image, more ...remote.Option) {
	l.Helper()
	if err := remote.Write(l.name(ref), img, append(more, remote.WithContext(l.Context()))...); err != nil {
		l.Fatal(err)
	}
}

// TestIndexWithArtifacts checks an index that lists artifacts along with the
// images, for the same platform, like the zTOC indexes of SOCI v2, signatures
// and caches. The image is chosen.
func TestIndexWithArtifacts(t *testing.T) {
	image := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "sha256:image", Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	beside := func(mediaType, artifact string, p *ocispec.Platform) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, ArtifactType: artifact, Digest: "sha256:other", Platform: p}
	}
	all := []ocispec.Descriptor{
		beside(ocispec.MediaTypeImageManifest, "application/vnd.amazon.soci.index.v2+json", image.Platform),
		beside(ocispec.MediaTypeImageManifest, "application/vnd.amazon.soci.index.v1+json", nil),
		beside(ocispec.MediaTypeImageManifest, "application/vnd.dev.cosign.artifact.sig.v1+json", image.Platform),
		beside("application/vnd.example.cache+json", "", image.Platform),
		beside(ocispec.MediaTypeImageManifest, "", &ocispec.Platform{OS: "unknown", Architecture: "unknown"}),
		beside(ocispec.MediaTypeImageManifest, "", &ocispec.Platform{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348.1"}),
		image,
	}
	for range all { // the order makes no difference
		all = append(all[1:], all[0])
		if got, err := choose(all, *image.Platform); err != nil || len(got) != 1 || got[0].Digest != image.Digest {
			t.Errorf("%v, %v", got, err)
		}
	}
	if got, err := choose(all[:len(all)-1], *image.Platform); !errors.Is(err, ErrPlatform) {
		t.Errorf("without an image: %v, %v", got, err)
	}
}

// TestDigestConfusion checks that a digest must have the length of its
// algorithm, and that weak and unknown algorithms are refused.
func TestDigestConfusion(t *testing.T) {
	hex := strings.Repeat("a1", 32)
	manifest := func(d digest.Digest) ocispec.Manifest {
		return ocispec.Manifest{
			Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig},
			Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d}},
		}
	}
	for _, d := range []string{"sha256:" + hex, "sha512:" + hex + hex} {
		if err := checkManifest(manifest(digest.Digest(d))); err != nil {
			t.Errorf("%s: %v", d, err)
		}
	}
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ref, _ := ParseReference("127.0.0.1:1/x")
	for _, d := range []string{
		"", "sha256", "sha256:", hex, "sha512:" + hex, "sha256:" + hex + hex, "md5:" + hex[:32], "sha1:" + hex[:40],
		"sha256:" + strings.ToUpper(hex), "sha256:../../" + hex[:58], "SHA256:" + hex, "sha256+b64:" + hex,
	} {
		if err := checkManifest(manifest(digest.Digest(d))); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%q as a layer: %v", d, err)
		}
		if _, err := c.child(t.Context(), nil, c.newLogins(ref), ocispec.Descriptor{Digest: digest.Digest(d)}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%q in an index: %v", d, err)
		}
		if b, err := c.Layer(ref, Layer{Descriptor: ocispec.Descriptor{Digest: digest.Digest(d)}}); err == nil {
			t.Errorf("%q as a blob: %v", d, b)
		}
	}
}

// TestConfigMissing checks a registry that lacks the config of its manifest, or
// has it with another size.
func TestConfigMissing(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{}, nil)
	img := l.forPlatform("linux/amd64")
	l.put("x:1", img)
	config := configDigest(t, img)
	l.o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "x@" + config, Every: 1, Action: testorigin.ActStatus, Status: 404})
	if _, err := l.resolve("x:1", "linux/amd64"); !errors.Is(err, ranges.ErrNotFound) || !strings.Contains(err.Error(), "config "+config) {
		t.Errorf("missing: %v", err)
	}
	l.o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "x@" + config, Every: 1, Action: testorigin.ActFlip, At: 5})
	if _, err := l.resolve("x:1", "linux/amd64"); !errors.Is(err, ErrDigest) || !strings.Contains(err.Error(), "expected "+config) {
		t.Errorf("wrong: %v", err)
	}
	l.o.SetFaults()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{0, 1, m.Config.Size - 1, m.Config.Size + 1, maxConfig + 1, -1} {
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.Digest(config), Size: size}
		ref, _ := ParseReference(l.o.Host() + "/x:1")
		if data, err := l.c.blob(t.Context(), l.e, l.c.newLogins(ref), d, maxConfig); err == nil {
			t.Errorf("a config of %d bytes passes for one of %d", len(data), size)
		}
	}
}

// TestMirrorNamespace checks that a mirror for several registries receives the
// registry as ns=, that the registry itself does not, and that no request is a
// HEAD.
func TestMirrorNamespace(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{}, nil)
	l.put("x:1", l.forPlatform("linux/amd64"))
	var mu sync.Mutex
	var asked []string
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Method+" "+r.URL.RawQuery)
		mu.Unlock()
		http.NotFound(w, r)
	}))
	defer mirror.Close()
	dir := t.TempDir()
	at := filepath.Join(dir, l.o.Host())
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	toml := fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", l.o.URL(), mirror.URL)
	if err := os.WriteFile(filepath.Join(at, "hosts.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{HostsDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l.c, c = c, l.c
	defer func() { l.c, c = c, l.c }()
	l.o.Reset()
	if _, err := l.resolve("x:1", "linux/amd64"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) < 2 { // manifest and config
		t.Errorf("the mirror was asked %d times", len(asked))
	}
	for _, a := range asked {
		if want := "GET ns=" + strings.ReplaceAll(l.o.Host(), ":", "%3A"); a != want {
			t.Errorf("the mirror was asked by %q, want %q", a, want)
		}
	}
	for _, n := range l.o.Counters() {
		if n.Op != "GetManifest" && n.Op != "GetBlob" {
			t.Errorf("the registry was asked for %s", n.Op)
		}
	}
	for registry, want := range map[string]string{hub: "", "r.example": "?ns=r.example"} {
		if got := (Reference{Host: registry}).namespace(&host{name: "registry-1.docker.io"}); got != want {
			t.Errorf("%s at Docker's: %q", registry, got)
		}
	}
}

// TestPlainHTTPIsChosen checks that http is used only for loopback addresses
// and where it is configured.
func TestPlainHTTPIsChosen(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "chosen.example")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(at, "hosts.toml"), []byte("server = \"http://chosen.example\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, plain := range []bool{false, true} {
		c, err := New(Options{HostsDir: dir, PlainHTTP: plain})
		if err != nil {
			t.Fatal(err)
		}
		for name, loopback := range map[string]bool{
			"127.0.0.1:5000": true, "localhost:5000": true, "[::1]:5000": true, "chosen.example": true,
			"r.example": false, "r.example:5000": false, "10.0.0.1:5000": false, "localhost.example:5000": false, hub: false,
		} {
			hs, err := c.hostsOf(Reference{Host: name, Repository: "x"})
			if err != nil {
				t.Fatal(err)
			}
			want := loopback || plain && name != hub // containerd's code always uses https for the hub
			if got := strings.HasPrefix(hs[0].base, "http://"); got != want || hs[0].insecure != want {
				t.Errorf("%s, plain http chosen: %v: %s", name, plain, hs[0].base)
			}
		}
		c.Close()
	}
}

// TestTokenOfEachRepository checks that each repository has a token of its own,
// even at one registry and with one user.
func TestTokenOfEachRepository(t *testing.T) {
	user := func(context.Context, string, string) (Credential, error) {
		return Credential{Username: testorigin.RegistryUser, Password: testorigin.RegistryPassword}, nil
	}
	l := newLab(t, testorigin.RegistryOptions{Auth: "token"}, func(o *Options) { o.Credentials = user })
	login := remote.WithAuth(&authn.Basic{Username: testorigin.RegistryUser, Password: testorigin.RegistryPassword})
	l.put("a/x:1", l.forPlatform("linux/amd64"), login)
	l.put("b/y:1", l.forPlatform("linux/amd64"), login)
	l.o.Reset()
	for _, ref := range []string{"a/x:1", "b/y:1"} { // manifest and config each
		if _, err := l.resolve(ref, "linux/amd64"); err != nil {
			t.Error(err)
		}
	}
	var tokens int64
	for _, n := range l.o.Counters() {
		if n.Op == "Token" {
			tokens += n.Requests
		}
	}
	if tokens != 2 {
		t.Errorf("%d tokens for two repositories", tokens)
	}
}

// TestExpiredBy403 checks that an expired password, which Amazon's registry
// reports by a 403 without a challenge, is looked up again. A 403 about rights
// is final after one request.
func TestExpiredBy403(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{}, nil)
	l.put("x:1", l.forPlatform("linux/amd64"))
	origin, err := url.Parse(l.o.URL())
	if err != nil {
		t.Fatal(err)
	}
	behind := httputil.NewSingleHostReverseProxy(origin)
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	behind.Transport = transport
	for _, tt := range []struct {
		name, says string
		renewed    bool
	}{
		{"ran out", `{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}`, true},
		{"no right", `{"errors":[{"code":"DENIED","message":"not authorized to perform: ecr:BatchGetImage"}]}`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			valid, logins, refused := "first", 0, 0
			ecr := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				switch _, password, ok := r.BasicAuth(); {
				case !ok:
					w.Header().Set("WWW-Authenticate", `Basic realm="registry",service="ecr"`)
					w.WriteHeader(http.StatusUnauthorized)
				case password != valid:
					refused++
					w.WriteHeader(http.StatusForbidden)
					fmt.Fprint(w, tt.says)
				default:
					r.Header.Del("Authorization")
					behind.ServeHTTP(w, r)
				}
			}))
			defer ecr.Close()
			c, err := New(Options{Credentials: func(context.Context, string, string) (Credential, error) {
				mu.Lock()
				defer mu.Unlock()
				logins++
				return Credential{Username: "AWS", Password: valid}, nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ref, _ := ParseReference(strings.TrimPrefix(ecr.URL, "http://") + "/x:1")
			p, _ := ParsePlatform("linux/amd64")
			img, err := c.Resolve(t.Context(), l.e, ref, p)
			if err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			valid = "second"
			mu.Unlock()
			err = readLayer(t, l.e, c, img)
			mu.Lock()
			defer mu.Unlock()
			if tt.renewed && (err != nil || logins != 2 || refused != 1) {
				t.Errorf("%d logins, %d refusals, %v", logins, refused, err)
			}
			if !tt.renewed && (!errors.Is(err, ranges.ErrDenied) || !strings.Contains(err.Error(), "403") || logins != 1 || refused != 1) {
				t.Errorf("%d logins, %d refusals, %v", logins, refused, err)
			}
		})
	}
}

// readLayer fetches the lowest layer of an image.
func readLayer(t *testing.T, e *ranges.Engine, c *Client, img *Image) error {
	t.Helper()
	src, err := c.Layer(img.Ref, img.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	obj := e.Object(src, ranges.Spec{Name: "layer", Host: src.Host(), Size: img.Layers[0].Size})
	data := make([]byte, img.Layers[0].Size)
	_, err = obj.Fetch(t.Context(), data, 0)
	if err == nil {
		err = checkDigest(data, img.Layers[0].Digest)
	}
	return err
}
