package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseReference(t *testing.T) {
	sum := strings.Repeat("a1", 32)
	tests := map[string]string{
		"alpine":                          "docker.io/library/alpine:latest",
		"alpine:3":                        "docker.io/library/alpine:3",
		"docker.io/alpine":                "docker.io/library/alpine:latest",
		"index.docker.io/some/one:x":      "docker.io/some/one:x",
		"localhost:5000/a/b":              "localhost:5000/a/b:latest",
		"[::1]:5000/a":                    "[::1]:5000/a:latest",
		"ghcr.io/a/b:v1@sha256:" + sum:    "ghcr.io/a/b@sha256:" + sum,
		"r.example/x@sha512:" + sum + sum: "r.example/x@sha512:" + sum + sum,
	}
	for in, want := range tests {
		ref, err := ParseReference(in)
		if err != nil || ref.String() != want {
			t.Errorf("%q: %q, %v; want %q", in, ref, err, want)
		}
	}
	for _, bad := range []string{"", " a", "A/b", "a:b:c", "a@sha256:xyz", "a@md5:" + sum[:32], "https://r/x", "a b", "-x/y", "a/../b", "a/./b", "a//b"} {
		if ref, err := ParseReference(bad); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
			t.Errorf("%q: %q, %v", bad, ref, err)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"alpine", "localhost:5000/a/b:t", "r/x@sha256:" + strings.Repeat("0", 64), "a/../b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(ref.String())
		if err != nil || again != ref {
			t.Fatalf("%q: %v then %v, %v", s, ref, again, err)
		}
		if strings.Contains("/"+ref.Repository+"/", "/../") || strings.ContainsAny(ref.Host+ref.Repository+ref.Tag, " \r\n?#%") {
			t.Fatalf("%q: %+v does not belong into a URL", s, ref)
		}
	})
}

// FuzzManifest checks that any document of a registry is classified, chosen
// from and checked without a panic, and that an accepted manifest has only
// valid digests and sizes.
func FuzzManifest(f *testing.F) {
	img, _ := random.Image(100, 2)
	idx, _ := random.Index(10, 1, 2)
	m, _ := img.RawManifest()
	i, _ := idx.RawManifest()
	f.Add(m)
	f.Add(i)
	f.Add([]byte(`{"schemaVersion":1,"fsLayers":[{}]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":null,"layers":[],"config":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		index, err := classify(document{data: data})
		if err != nil {
			return
		}
		if index {
			var idx ocispec.Index
			if json.Unmarshal(data, &idx) == nil {
				_, _ = choose(idx.Manifests, ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"})
			}
			return
		}
		var m ocispec.Manifest
		if json.Unmarshal(data, &m) != nil || checkManifest(m) != nil {
			return
		}
		for _, l := range m.Layers {
			if l.Size < 0 || l.Digest.Validate() != nil {
				t.Fatalf("accepted %+v", l)
			}
		}
	})
}

// lab is a registry, an engine and a client.
type lab struct {
	*testing.T
	o *testorigin.Origin
	e *ranges.Engine
	c *Client
}

func newLab(t *testing.T, ro testorigin.RegistryOptions, edit func(*Options)) *lab {
	t.Helper()
	o, err := testorigin.Start(testorigin.Options{Registry: ro})
	if err != nil {
		t.Fatal(err)
	}
	e, err := ranges.New(ranges.Options{Retry: ranges.RetryPolicy{Attempts: 3}})
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{}
	if edit != nil {
		edit(&opts)
	}
	c, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Close()
		c.Close()
		o.Close()
	})
	return &lab{T: t, o: o, e: e, c: c}
}

func (l *lab) name(ref string) name.Reference {
	l.Helper()
	r, err := name.ParseReference(l.o.Host() + "/" + ref)
	if err != nil {
		l.Fatal(err)
	}
	return r
}

func (l *lab) resolve(ref, platform string) (*Image, error) {
	l.Helper()
	r, err := ParseReference(l.o.Host() + "/" + ref)
	if err != nil {
		l.Fatal(err)
	}
	p, err := ParsePlatform(platform)
	if err != nil {
		l.Fatal(err)
	}
	return l.c.Resolve(l.Context(), l.e, r, p)
}

// forPlatform returns a small image for a platform.
func (l *lab) forPlatform(platform string) v1.Image {
	l.Helper()
	img, err := random.Image(64, 1)
	if err != nil {
		l.Fatal(err)
	}
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		l.Fatal(err)
	}
	cfg, _ := img.ConfigFile()
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Variant = p.OS, p.Architecture, p.Variant
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		l.Fatal(err)
	}
	return img
}

func (l *lab) index(platforms ...string) v1.ImageIndex {
	l.Helper()
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, s := range platforms {
		p, _ := v1.ParsePlatform(s)
		add := mutate.IndexAddendum{Add: l.forPlatform(s), Descriptor: v1.Descriptor{Platform: p}}
		switch {
		case s == "unknown/unknown":
			add.Add = l.forPlatform("linux/amd64")
		case strings.HasPrefix(s, "unnamed:"):
			s = strings.TrimPrefix(s, "unnamed:")
			add = mutate.IndexAddendum{Add: l.forPlatform(s)}
		}
		idx = mutate.AppendManifests(idx, add)
	}
	return idx
}

func (l *lab) pushIndex(ref string, idx v1.ImageIndex) {
	l.Helper()
	if err := remote.WriteIndex(l.name(ref), idx, remote.WithContext(l.Context())); err != nil {
		l.Fatal(err)
	}
}

func TestPlatforms(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{}, nil)
	l.pushIndex("multi:1", l.index("unknown/unknown", "windows/amd64", "linux/arm/v6", "linux/arm/v7", "linux/amd64", "linux/arm64/v8"))
	l.pushIndex("unnamed:1", l.index("unnamed:linux/arm64", "unnamed:linux/amd64"))
	nested := mutate.IndexMediaType(empty.Index, types.DockerManifestList)
	nested = mutate.AppendManifests(nested, mutate.IndexAddendum{Add: l.index("linux/s390x", "linux/amd64")})
	l.pushIndex("nested:1", nested)
	deep := nested
	for range maxNesting {
		deep = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: deep})
	}
	l.pushIndex("deep:1", deep)
	tests := []struct {
		ref, platform, want string
		err                 error
	}{
		{"multi:1", "linux/amd64", "linux/amd64", nil},
		{"multi:1", "linux/arm/v7", "linux/arm/v7", nil},
		{"multi:1", "linux/arm/v8", "linux/arm/v7", nil},
		{"multi:1", "linux/arm/v6", "linux/arm/v6", nil},
		{"multi:1", "linux/arm64", "linux/arm64", nil},
		{"multi:1", "linux/riscv64", "", ErrPlatform},
		{"multi:1", "linux/arm/v5", "", ErrPlatform},
		{"unnamed:1", "linux/amd64", "linux/amd64", nil},
		{"unnamed:1", "linux/s390x", "", ErrPlatform},
		{"nested:1", "linux/amd64", "linux/amd64", nil},
		{"nested:1", "linux/arm64", "", ErrPlatform},
		{"deep:1", "linux/amd64", "", ErrUnsupported},
	}
	for _, tt := range tests {
		img, err := l.resolve(tt.ref, tt.platform)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s for %s: %v", tt.ref, tt.platform, err)
			continue
		}
		if err != nil {
			continue
		}
		got := strings.TrimSuffix(strings.Join([]string{img.Platform.OS, img.Platform.Architecture, img.Platform.Variant}, "/"), "/")
		if got != tt.want || len(img.Layers) != 1 {
			t.Errorf("%s for %s: %s, %d layers", tt.ref, tt.platform, got, len(img.Layers))
		}
	}
	if _, err := l.resolve("multi:1", "linux/riscv64"); err == nil || !strings.Contains(err.Error(), "the index has linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64") {
		t.Error(err)
	}
}

// TestWrongPlatform checks an image without an index, which is for one
// platform. It is an error only if another one was requested.
func TestWrongPlatform(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{}, nil)
	if err := remote.Write(l.name("single:1"), l.forPlatform("linux/s390x"), remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := l.resolve("single:1", "linux/amd64"); !errors.Is(err, ErrPlatform) {
		t.Error(err)
	}
	img, err := l.resolve("single:1", "")
	if err != nil || len(img.Notes) != 1 || !strings.Contains(img.Notes[0], "the image is for linux/s390x") {
		t.Error(img, err)
	}
}

type raw struct {
	data      string
	mediaType types.MediaType
}

func (r raw) RawManifest() ([]byte, error)        { return []byte(r.data), nil }
func (r raw) MediaType() (types.MediaType, error) { return r.mediaType, nil }

func TestRefusedManifests(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{}, nil)
	img := l.forPlatform("linux/amd64")
	if err := remote.Write(l.name("refused:good"), img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	good, _ := img.RawManifest()
	edit := func(pairs ...string) string {
		s := string(good)
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(s, pairs[i]) {
				t.Fatalf("manifest has no %q: %s", pairs[i], s)
			}
			s = strings.ReplaceAll(s, pairs[i], pairs[i+1])
		}
		return s
	}
	manifest := types.DockerManifestSchema2
	tests := map[string]raw{
		"schema 1":                            {`{"schemaVersion":1,"name":"x","tag":"y","fsLayers":[],"history":[]}`, types.DockerManifestSchema1},
		"index and a manifest":                {strings.Replace(string(good), "{", `{"manifests":[],`, 1), manifest},
		"not a container image":               {edit("application/vnd.docker.container.image.v1+json", "application/vnd.cncf.helm.config.v1+json"), manifest},
		"is encrypted":                        {edit("application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), manifest},
		`layer of type "text/`:                {edit("application/vnd.docker.image.rootfs.diff.tar.gzip", "text/plain"), manifest},
		"the config lists 1":                  {edit(`"layers":[`, `"layers":[`+layerJSON(t, img)+","), manifest},
		"not JSON":                            {"this is no manifest", "application/vnd.example+json"},
		`media type "application/vnd.example`: {`{"schemaVersion":2,"mediaType":"application/vnd.example"}`, "application/vnd.example"},
	}
	i := 0
	for want, m := range tests {
		i++
		ref := fmt.Sprint("refused:", i)
		if err := remote.Put(l.name(ref), m, remote.WithContext(t.Context())); err != nil {
			t.Logf("the registry itself refuses %q: %v", want, err)
			index, err := classify(document{desc: ocispec.Descriptor{MediaType: string(m.mediaType)}, data: []byte(m.data)})
			if err == nil || !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v %v", want, index, err)
			}
			continue
		}
		if _, err := l.resolve(ref, "linux/amd64"); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

// layerJSON returns the descriptor of the image's layer.
func layerJSON(t *testing.T, img v1.Image) string {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(m.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDigestReference checks that a reference by digest binds the content.
func TestDigestReference(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{}, nil)
	img := l.forPlatform("linux/amd64")
	if err := remote.Write(l.name("x:1"), img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	d, _ := img.Digest()
	got, err := l.resolve("x@"+d.String(), "linux/amd64")
	if err != nil || got.Manifest.Digest.String() != d.String() {
		t.Fatal(got, err)
	}
	l.o.SetFaults(testorigin.Fault{Op: "GetManifest", Every: 1, Action: testorigin.ActFlip, At: 20})
	if _, err := l.resolve("x@"+d.String(), "linux/amd64"); !errors.Is(err, ErrDigest) || !strings.Contains(err.Error(), "expected "+d.String()) {
		t.Error(err)
	}
	if _, err := l.resolve("x:1", "linux/amd64"); !errors.Is(err, ErrDigest) || !strings.Contains(err.Error(), "announced "+d.String()) {
		t.Error(err)
	}
}

// TestDockerConfig checks the file of docker login and a credential helper.
func TestDockerConfig(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{Auth: "token"}, nil)
	img := l.forPlatform("linux/amd64")
	host := l.o.Host()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", home)
	write := func(file, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(home, file), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("config.json", fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q}}}`, host, testorigin.RegistryUser, testorigin.RegistryPassword), 0o600)
	if c, err := DockerCredentials(t.Context(), host, ""); err != nil || c.Username != testorigin.RegistryUser {
		t.Fatal(c.Username, err)
	}
	push := remote.WithAuthFromKeychain(authn.DefaultKeychain)
	if err := remote.Write(l.name("x:1"), img, remote.WithContext(t.Context()), push); err != nil {
		t.Fatal(err)
	}
	if _, err := l.resolve("x:1", ""); err != nil {
		t.Fatal(err)
	}
	write("docker-credential-lab", fmt.Sprintf("#!/bin/sh\necho '{\"ServerURL\":\"\",\"Username\":\"%s\",\"Secret\":\"%s\"}'\n", "helper", "from the helper"), 0o700)
	t.Setenv("PATH", home+":"+os.Getenv("PATH"))
	write("config.json", fmt.Sprintf(`{"credHelpers":{%q:"lab"}}`, host), 0o600)
	if c, err := DockerCredentials(t.Context(), host, ""); err != nil || c.Username != "helper" || c.Password != "from the helper" {
		t.Error(c, err)
	}
	write("docker-credential-lab", "#!/bin/sh\necho the vault is locked\nexit 1\n", 0o700)
	if _, err := DockerCredentials(t.Context(), host, ""); err == nil || !strings.Contains(err.Error(), host) {
		t.Error(err)
	}
	write("config.json", "{", 0o600)
	if _, err := DockerCredentials(t.Context(), host, ""); err == nil {
		t.Error("a broken config.json passes")
	}
}

// TestMirrors checks a hosts.toml with an empty mirror and a complete one.
func TestMirrors(t *testing.T) {
	l := newLab(t, testorigin.RegistryOptions{}, nil)
	img := l.forPlatform("linux/amd64")
	if err := remote.Write(l.name("x:1"), img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	bare := newLab(t, testorigin.RegistryOptions{}, nil)
	dir := t.TempDir()
	toml := fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n",
		"https://registry.example", bare.o.URL(), l.o.URL())
	if err := os.MkdirAll(filepath.Join(dir, "registry.example"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "registry.example", "hosts.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{HostsDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ref, _ := ParseReference("registry.example/x:1")
	p, _ := ParsePlatform("linux/amd64")
	got, err := c.Resolve(t.Context(), l.e, ref, p)
	if err != nil || len(got.Layers) != 1 {
		t.Fatal(got, err)
	}
	if bare.o.Count("GetManifest", "x:1").Requests != 1 || bare.o.Count("GetBlob", "x@"+configDigest(t, img)).Requests == 0 {
		t.Errorf("the first mirror was not asked: %+v", bare.o.Counters())
	}
}

// TestOtherHost checks the host that a late or failed request is sent to. The
// last host of three has sent wrong bytes, so it is asked after a failure or a
// second delay, but not for the first hedge.
func TestOtherHost(t *testing.T) {
	const off = 100
	for _, tt := range []struct {
		name                           string
		good, start, attempt, failedBy int
		want                           int
	}{
		{"a hedge of the first", 2, 0, 1, -1, 1},
		{"a hedge of the last that is right", 2, 1, 1, -1, 0},
		{"a hedge where one is right", 1, 0, 1, -1, 0},
		{"late again", 1, 0, 2, -1, 2},
		{"failed", 2, 0, 1, 1, 2},
		{"all were wrong", 0, 0, 1, -1, 1},
		{"only the wrong one answers", 2, 2, 1, -1, 0},
	} {
		b := &Blob{hosts: make([]*host, 3), good: tt.good, start: tt.start}
		if tt.failedBy >= 0 {
			b.failed = map[int64]int{off: tt.failedBy}
		}
		if got := b.otherHost(ranges.Request{Off: off, Attempt: tt.attempt}); got != tt.want {
			t.Errorf("%s: host %d, want %d", tt.name, got, tt.want)
		}
	}
}

func configDigest(t *testing.T, img v1.Image) string {
	t.Helper()
	d, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func TestRedirects(t *testing.T) {
	from := func(base, location string) error {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, base, nil)
		return checkRedirect(&http.Response{StatusCode: 307, Request: req, Header: http.Header{"Location": {location}}})
	}
	if r, ok := errors.AsType[*redirect](from("https://r.example/v2/x", "/other?sig=secret")); !ok || r.to != "https://r.example/other?sig=secret" || strings.Contains(r.Error(), "secret") {
		t.Error(r)
	}
	for _, bad := range [][2]string{
		{"https://r.example/", "http://s.example/?sig=secret"},
		{"http://r.example/", "file:///etc/passwd"},
		{"http://r.example/", ":"},
	} {
		err := from(bad[0], bad[1])
		if f, ok := errors.AsType[*ranges.Fault](err); !ok || f.Kind != ranges.Permanent || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func ExampleParseReference() {
	ref, err := ParseReference("alpine")
	fmt.Println(ref, err)
	// Output: docker.io/library/alpine:latest <nil>
}
