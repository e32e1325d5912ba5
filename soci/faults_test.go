package soci_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/semaphore"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/internal/testport"
	"github.com/penstock/penstock/soci"
)

// wantError pulls and expects an error on one line, with the sentinel and
// words, and no files left behind.
func wantError(t *testing.T, p *soci.Puller, ref string, as error, words ...string) *soci.Error {
	t.Helper()
	dir, clean := target(t)
	_, err := p.Pull(t.Context(), ref, dir)
	clean()
	if err == nil {
		t.Fatal("no error")
	}
	if as != nil && !errors.Is(err, as) {
		t.Errorf("error %v does not match %q", err, as)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\r") {
		t.Errorf("error of several lines: %q", err)
	}
	for _, secret := range []string{testorigin.RegistryPassword, "X-Amz-Signature", "Bearer ey"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("error tells a secret: %q", err)
		}
	}
	e, ok := errors.AsType[*soci.Error](err)
	if !ok {
		t.Fatalf("error is a %T", err)
	}
	return e
}

// TestMisbehavingRegistry checks that transient faults neither fail a pull nor
// cost a second download.
func TestMisbehavingRegistry(t *testing.T) {
	img := mediumImage(t)
	tests := []struct {
		name     string
		registry testorigin.RegistryOptions
		faults   []testorigin.Fault
		waste    float64 // largest share of bytes that may be requested twice
	}{
		{"truncated", testorigin.RegistryOptions{}, []testorigin.Fault{{Op: "GetBlob", Every: 3, Action: testorigin.ActTruncate, At: testorigin.AtRandom}}, 0.02},
		{"reset", testorigin.RegistryOptions{}, []testorigin.Fault{{Op: "GetBlob", Every: 3, Action: testorigin.ActReset, At: testorigin.AtRandom}}, 0.5},
		{"reset before the header", testorigin.RegistryOptions{}, []testorigin.Fault{{Op: "GetBlob", Every: 2, Action: testorigin.ActReset}}, 0},
		{"503", testorigin.RegistryOptions{}, []testorigin.Fault{{Op: "GetBlob", Every: 4, Action: testorigin.ActStatus, Status: 503}}, 0},
		{"manifest 503", testorigin.RegistryOptions{}, []testorigin.Fault{{Op: "GetManifest", Nth: 1, Action: testorigin.ActStatus, Status: 503}}, 0},
		{"wrong range", testorigin.RegistryOptions{}, []testorigin.Fault{{Op: "GetBlob", Every: 3, Action: testorigin.ActWrongRange}}, 1},
		{"short answer", testorigin.RegistryOptions{}, []testorigin.Fault{{Op: "GetBlob", Every: 3, Action: testorigin.ActShort}}, 1},
		{"ranges ignored", testorigin.RegistryOptions{}, []testorigin.Fault{{Op: "GetBlob", Every: 1, Action: testorigin.ActIgnoreRange}}, 3},
		{"no Accept-Ranges", testorigin.RegistryOptions{}, []testorigin.Fault{{Op: "GetBlob", Every: 1, Action: testorigin.ActHeader, Header: "Accept-Ranges:"}}, 0},
		{"Content-Encoding that is none", testorigin.RegistryOptions{}, []testorigin.Fault{{Op: "GetBlob", Every: 1, Action: testorigin.ActHeader, Header: "Content-Encoding: gzip"}}, 0},
		{"another ETag", testorigin.RegistryOptions{}, []testorigin.Fault{{Op: "GetBlob", Every: 2, Action: testorigin.ActHeader, Header: `ETag: "other"`}}, 0},
		{"weak ETag", testorigin.RegistryOptions{}, []testorigin.Fault{{Op: "GetBlob", Every: 2, Action: testorigin.ActHeader, Header: `ETag: W/"weak"`}}, 0},
		{"closed after each answer", testorigin.RegistryOptions{}, []testorigin.Fault{{Op: "GetBlob", Every: 1, Action: testorigin.ActClose}}, 0},
		{"presigned URLs for three uses", testorigin.RegistryOptions{RedirectBlobs: true, RedirectUses: 3}, nil, 0},
		{"presigned URL born expired", testorigin.RegistryOptions{RedirectBlobs: true}, []testorigin.Fault{{Op: "GetBlob", Nth: 1, Action: testorigin.ActExpire}}, 0},
		{"presigned URL expires", testorigin.RegistryOptions{RedirectBlobs: true}, []testorigin.Fault{{Op: "FetchBlob", Every: 4, Action: testorigin.ActExpire}}, 0},
		{"presigned URL refused as S3 does an old session", testorigin.RegistryOptions{RedirectBlobs: true}, []testorigin.Fault{{Op: "FetchBlob", Every: 4, Action: testorigin.ActStatus, Status: 400}}, 0},
		{"token expires", testorigin.RegistryOptions{Auth: "token"}, []testorigin.Fault{{Op: "GetBlob", Every: 4, Action: testorigin.ActExpire}}, 0},
		{"token server 503", testorigin.RegistryOptions{Auth: "token"}, []testorigin.Fault{{Op: "Token", Nth: 1, Action: testorigin.ActStatus, Status: 503}}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := origin(t, testorigin.Options{Registry: tt.registry, Seed: 1})
			ref := push(t, o, "go/tree:1", img)
			o.SetFaults(tt.faults...)
			dir, clean := target(t)
			res, err := puller(t, nil).Pull(t.Context(), ref, dir)
			if err != nil {
				t.Fatal(err)
			}
			checkMedium(t, dir)
			clean("root")
			if fired := o.FaultCounts(); len(tt.faults) > 0 && fired[0].Fired == 0 {
				t.Errorf("the fault never came: %+v", fired)
			}
			var sent int64
			for _, l := range res.Layers {
				sent += o.Count("GetBlob", "go/tree@"+l.Digest).Bytes + o.Count("FetchBlob", "go/tree@"+l.Digest).Bytes
			}
			// Error bodies count as sent: a few hundred bytes each.
			if most := int64(float64(res.CompressedBytes)*(1+tt.waste)) + 64<<10 + res.Network.Hedges*partBytes; sent > most {
				t.Errorf("%d bytes sent for %d: more than %d", sent, res.CompressedBytes, most)
			}
		})
	}
}

// TestRedirectWithoutAuthorization checks that the host behind a redirect
// receives no Authorization, and a Referer without a query.
func TestRedirectWithoutAuthorization(t *testing.T) {
	var mu sync.Mutex
	var fetches, leaks int
	var referers []string
	o := origin(t, testorigin.Options{
		Registry: testorigin.RegistryOptions{Auth: "token", RedirectBlobs: true},
		Tap: func(e testorigin.Event) {
			if e.Op != "FetchBlob" || e.Done {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			fetches++
			if len(e.Header["Authorization"]) > 0 {
				leaks++
			}
			referers = append(referers, e.Header["Referer"]...)
		},
	})
	ref := push(t, o, "go/tree:1", mediumImage(t))
	dir, _ := target(t)
	if _, err := puller(t, nil).Pull(t.Context(), ref, dir); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if fetches < 5 || leaks > 0 || len(referers) != fetches {
		t.Errorf("%d fetches, %d with Authorization, %d with Referer", fetches, leaks, len(referers))
	}
	slices.Sort(referers)
	for _, r := range slices.Compact(referers) {
		if !strings.HasPrefix(r, o.URL()+"/v2/go/tree/blobs/sha256:") || strings.Contains(r, "?") {
			t.Errorf("Referer %q", r)
		}
	}
}

// TestTokenRefreshedOnce checks that one new token is fetched when a token expires
// under many concurrent requests.
func TestTokenRefreshedOnce(t *testing.T) {
	var clock atomic.Int64 // seconds ahead
	var held atomic.Int32
	release := make(chan struct{})
	const together = 4
	o := origin(t, testorigin.Options{
		Registry: testorigin.RegistryOptions{Auth: "token"},
		Now:      func() time.Time { return time.Now().Add(time.Duration(clock.Load()) * time.Second) },
		Tap: func(e testorigin.Event) {
			if e.Op != "GetBlob" || e.Done || len(e.Header["Authorization"]) == 0 {
				return
			}
			// The first few layer requests wait for each other until their
			// token is old.
			if n := held.Add(1); n == together+1 { // the first is for the config
				clock.Store(3600)
				close(release)
			} else if n > 1 && n <= together {
				<-release
			}
		},
	})
	ref := push(t, o, "go/tree:1", mediumImage(t))
	dir, _ := target(t)
	if _, err := puller(t, func(o *soci.Options) { o.Parallelism = 4 }).Pull(t.Context(), ref, dir); err != nil {
		t.Fatal(err)
	}
	checkMedium(t, dir)
	var tokens int64
	for _, c := range o.Counters() {
		if c.Op == "Token" {
			tokens += c.Requests
		}
	}
	// With a password each login tries the OAuth2 POST first.
	if tokens != 2 {
		t.Errorf("%d token requests, want 2: one at first, one for all when it ran out", tokens)
	}
}

func TestDigestMismatch(t *testing.T) {
	img := mediumImage(t)
	layers, _ := img.Layers()
	want, _ := layers[0].Digest()
	o := origin(t, testorigin.Options{})
	ref := push(t, o, "go/tree:1", img)
	o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "*@" + want.String(), Every: 1, Action: testorigin.ActFlip, At: 100_000})
	e := wantError(t, puller(t, nil), ref, soci.ErrDigest, "expected "+want.String(), "got sha256:")
	if e.Digest != want.String() || e.Repository != "go/tree" || e.Registry != o.Host() {
		t.Errorf("%+v", e)
	}

	o.SetFaults()
	bad := gzLayer(tarOf(t, "f", "x"))
	bad.diffID = v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("ab", 32)}
	ref = push(t, o, "bad/diffid", image(t, here, bad))
	wantError(t, puller(t, nil), ref, soci.ErrDigest, "expected DiffID sha256:abab", "got sha256:")

	o.SetFaults(testorigin.Fault{Op: "GetManifest", Every: 1, Action: testorigin.ActFlip, At: 10})
	wantError(t, puller(t, nil), ref, nil)
}

func TestManifestSizeWrong(t *testing.T) {
	o := origin(t, testorigin.Options{})
	img := image(t, here, gzLayer(goTree(t, "archive")))
	push(t, o, "lying:1", img)
	for _, by := range []int64{-1000, 1000, 1 << 40, 0} {
		m, _ := img.Manifest()
		m = m.DeepCopy()
		if m.Layers[0].Size += by; by == 0 {
			m.Layers[0].Size = 0
		}
		ref := pushRaw(t, o, "lying:2", types.OCIManifestSchema1, m)
		if by > 1<<30 {
			wantError(t, puller(t, nil), ref, nil, "no space left on device", "are free")
			continue
		}
		says := fmt.Sprint("manifest says ", m.Layers[0].Size, " bytes")
		if by == 0 {
			says = "(0 bytes)" // no byte was requested
		}
		wantError(t, puller(t, nil), ref, soci.ErrDigest, says)
	}
}

// hugeWindow is a zstd frame of one byte that needs 2 GiB for its history (RFC
// 8878, section 3.1.1.1.2: an exponent of 21).
var hugeWindow = []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1<<3 | 1, 0, 0, 'x'}

// hugeSegment is a zstd frame that claims to be a single segment of 4 GiB less
// one byte, which is then its window.
var hugeSegment = []byte{0x28, 0xb5, 0x2f, 0xfd, 2<<6 | 1<<5, 0xff, 0xff, 0xff, 0xff, 1<<3 | 1, 0, 0, 'x'}

func TestDamagedLayers(t *testing.T) {
	o := origin(t, testorigin.Options{})
	whole := goTree(t, "bufio")
	zeros := make([]byte, 80<<20)
	tests := []struct {
		name string
		l    *layer
		edit func(*soci.Options)
		as   error
		say  string
	}{
		{"cut gzip", &layer{tar: whole, data: gz(whole)[:5000]}, nil, soci.ErrCorrupt, "unexpected EOF"},
		{"cut tar", gzLayer(whole[:100_000]), nil, soci.ErrCorrupt, "unexpected EOF"},
		{"garbage behind", &layer{tar: whole, data: append(gz(whole), "garbage"...)}, nil, soci.ErrCorrupt, "the last member is followed by"},
		{"not a tar", gzLayer([]byte(strings.Repeat("this is no tar archive ", 100))), nil, soci.ErrCorrupt, "invalid tar header"},
		{"climbs out", gzLayer(tarOf(t, "../../evil", "x")), nil, soci.ErrUnsafe, `"../../evil"`},
		{"bomb", gzLayer(append(tarOf(t), zeros...)), func(o *soci.Options) { o.Limits.Ratio, o.Limits.RatioFree = 100, 64<<20 }, soci.ErrLimit, "expands more than 100 times (limit Ratio), to more than 64 MiB (limit RatioFree)"},
		{"too many", gzLayer(whole), func(o *soci.Options) { o.Limits.Entries = 3 }, soci.ErrLimit, "more than 3 entries"},
		{"too large", gzLayer(whole), func(o *soci.Options) { o.Limits.TotalSize = 1000 }, soci.ErrLimit, "1000"},
		{"zstd window", &layer{tar: whole, data: hugeWindow, mediaType: types.OCILayerZStd}, func(o *soci.Options) { o.Memory = 256 << 20 }, soci.ErrLimit, "a frame wants 2048 MiB, at most 128 MiB are allowed (limit Window)"},
		{"zstd window and little memory", &layer{tar: whole, data: hugeWindow, mediaType: types.OCILayerZStd}, nil, soci.ErrLimit, "a frame wants 2048 MiB, at most 16 MiB are allowed (half of Memory: allow more memory)"},
		{"zstd segment", &layer{tar: whole, data: hugeSegment, mediaType: types.OCILayerZStd}, func(o *soci.Options) { o.Memory = 1 << 30 }, soci.ErrLimit, "a frame wants 4095 MiB, at most 128 MiB are allowed (limit Window)"},
		{"link to nothing", gzLayer(hardLink(t)), nil, soci.ErrCorrupt, `"nowhere"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ref := push(t, o, "damaged/"+strings.ReplaceAll(tt.name, " ", "-"), image(t, here, tt.l))
			e := wantError(t, puller(t, tt.edit), ref, tt.as, tt.say)
			if d, _ := tt.l.Digest(); e.Digest != d.String() {
				t.Errorf("error names %q, not %q", e.Digest, d)
			}
		})
	}
}

func TestNotFoundAndDenied(t *testing.T) {
	o := origin(t, testorigin.Options{Registry: testorigin.RegistryOptions{Auth: "token"}})
	push(t, o, "here:1", image(t, here, gzLayer(tarOf(t, "f", "x"))))
	p := puller(t, nil)
	e := wantError(t, p, o.Host()+"/here:2", soci.ErrNotFound, "resolve", "here", "404")
	if e.Status != 404 {
		t.Errorf("%+v", e)
	}
	wantError(t, p, o.Host()+"/nowhere:1", soci.ErrNotFound)
	wantError(t, p, o.Host()+"/here@sha256:"+strings.Repeat("0", 64), soci.ErrNotFound)

	nobody := puller(t, func(o *soci.Options) {
		o.Credentials = func(context.Context, string, string) (soci.Credential, error) {
			return soci.Credential{Username: testorigin.RegistryUser, Password: "wrong-password"}, nil
		}
	})
	if e := wantError(t, nobody, o.Host()+"/here:1", soci.ErrDenied, "401"); strings.Contains(e.Error(), "wrong-password") {
		t.Error(e)
	}
	anonymous := puller(t, func(o *soci.Options) {
		o.Credentials = func(context.Context, string, string) (soci.Credential, error) { return soci.Credential{}, nil }
	})
	wantError(t, anonymous, o.Host()+"/here:1", soci.ErrDenied)
	broken := puller(t, func(o *soci.Options) {
		o.Credentials = func(context.Context, string, string) (soci.Credential, error) {
			return soci.Credential{}, errors.New("the vault is locked")
		}
	})
	wantError(t, broken, o.Host()+"/here:1", soci.ErrDenied, "the vault is locked")
}

func TestUnreachableOrInvalid(t *testing.T) {
	addr := testport.Addr(t)
	wantError(t, puller(t, nil), addr+"/x:1", nil, "connection refused", addr)
	for _, bad := range []string{"", " x", "UPPER/case:1", "x:", "x@sha256:12", "http://x/y", "x@md5:" + strings.Repeat("0", 32)} {
		wantError(t, puller(t, nil), bad, nil, "parse", "reference")
	}
}

func TestCancel(t *testing.T) {
	for _, after := range []int64{0, 1 << 20, 2 << 20} {
		o := origin(t, testorigin.Options{})
		ref := push(t, o, "go/tree:1", mediumImage(t))
		// The registry never ends the last layer, so the pull cannot end
		// either.
		layers, _ := mediumImage(t).Layers()
		last, _ := layers[2].Digest()
		o.SetFaults(testorigin.Fault{Op: "GetBlob", Key: "*@" + last.String(), Every: 1, Action: testorigin.ActStall, At: 1000})
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("enough")
		prog := &progress{}
		prog.onAdvance = func() {
			if prog.tar > after {
				cancel(stop)
			}
		}
		dir, clean := target(t)
		_, err := puller(t, func(o *soci.Options) { o.Progress = prog }).Pull(ctx, ref, dir)
		if !errors.Is(err, stop) {
			t.Errorf("after %d bytes: %v", after, err)
		}
		clean()
		cancel(nil)
	}
}

// TestConcurrentPulls checks that concurrent pulls of one Puller share its memory
// and do not mix their layers.
func TestConcurrentPulls(t *testing.T) {
	o := origin(t, testorigin.Options{})
	ref := push(t, o, "go/tree:1", mediumImage(t))
	shared := semaphore.NewWeighted(64 << 20)
	p := puller(t, func(o *soci.Options) { o.Budget = shared })
	var wg sync.WaitGroup
	dirs := make([]string, 4)
	errs := make([]error, 4)
	for i := range dirs {
		dirs[i], _ = target(t)
		wg.Go(func() { _, errs[i] = p.Pull(t.Context(), ref, dirs[i]) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		checkMedium(t, d)
	}
	if !shared.TryAcquire(64 << 20) {
		t.Error("the shared budget was not given back")
	}
	// Each layer in progress may exceed the budget by its ring and its first
	// part.
	const atWork, ring = 4 * 3, 6 * 256 << 10
	if limit, peak, inUse := p.MemoryUse(); peak > limit+atWork*(ring+partBytes) || inUse != 0 {
		t.Errorf("memory: limit %d, peak %d, in use at the end %d", limit, peak, inUse)
	}
}

func TestValidate(t *testing.T) {
	for want, opts := range map[string]soci.Options{
		`platform "a/b/c/d"`: {Platform: "a/b/c/d"},
		"memory of 1000":     {Memory: 1000},
		"part size 7":        {PartBytes: 7},
		"more than a fourth": {PartBytes: 16 << 20, Memory: 32 << 20},
		"1 connections":      {MaxConns: 1},
		"parallelism -1":     {Parallelism: -1},
		"-2 writers":         {Writers: -2},
		"ratio 0.5":          {Limits: soci.Limits{Ratio: 0.5}},
		"window of 100":      {Limits: soci.Limits{Window: 100}},
		"1000 bytes for the": {Limits: soci.Limits{Metadata: 1000}},
		`"/no/such"`:         {HostsDir: "/no/such"},
	} {
		if _, err := soci.New(opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := (soci.Options{}).Validate(); err != nil {
		t.Error(err)
	}
}
