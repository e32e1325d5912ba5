package soci_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// oddHTTP is a proxy that sends the blobs of a registry in forms that HTTP
// allows and few registries use. It counts the bytes of blobs.
type oddHTTP struct {
	to   string
	clip int64 // bytes of an answer; 0 sends the whole blob without a length
	cut  int64 // bytes after which the body ends as if it were whole; 0 cuts nothing
	sent atomic.Int64
}

func (o *oddHTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req, _ := http.NewRequestWithContext(r.Context(), r.Method, o.to+r.URL.RequestURI(), nil)
	req.Header = r.Header.Clone()
	blob := strings.Contains(r.URL.Path, "/blobs/")
	if blob && o.clip == 0 {
		req.Header.Del("Range")
	}
	if from, to, ok := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-"); blob && ok && o.clip > 0 {
		first, _ := strconv.ParseInt(from, 10, 64)
		last, _ := strconv.ParseInt(to, 10, 64)
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first, min(last, first+o.clip-1)))
	}
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	maps.Copy(w.Header(), resp.Header)
	if blob && o.clip == 0 {
		w.Header().Del("Content-Length")
	}
	w.WriteHeader(resp.StatusCode)
	_ = http.NewResponseController(w).Flush() // from here on an answer without a length becomes chunked
	body := io.Reader(resp.Body)
	if blob && o.cut > 0 {
		body = io.LimitReader(body, o.cut)
	}
	n, _ := io.Copy(w, body)
	if blob {
		o.sent.Add(n)
	}
}

// TestOddHTTP pulls blobs that arrive whole and without a length, or in smaller
// pieces than requested.
func TestOddHTTP(t *testing.T) {
	img := mediumImage(t)
	o := origin(t, testorigin.Options{})
	push(t, o, "go/tree:1", img)
	for _, tt := range []struct {
		name  string
		odd   *oddHTTP
		waste float64
	}{
		{"chunked", &oddHTTP{}, 3}, // parts are requested ahead, before the first answer
		{"clipped", &oddHTTP{clip: 100_000}, 0.02},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.odd.to = o.URL()
			addr, stop := serve(t, tt.odd)
			defer stop()
			dir, clean := target(t)
			res, err := puller(t, nil).Pull(t.Context(), addr+"/go/tree:1", dir)
			if err != nil {
				t.Fatal(err)
			}
			checkMedium(t, dir)
			clean("root")
			if most := int64(float64(res.CompressedBytes)*(1+tt.waste)) + 64<<10; tt.odd.sent.Load() > most+res.Network.Hedges*partBytes {
				t.Errorf("%d bytes sent for %d", tt.odd.sent.Load(), res.CompressedBytes)
			}
		})
	}
	// Without a length only size and digest show that a body is truncated.
	addr, stop := serve(t, &oddHTTP{to: o.URL(), cut: 50_000})
	defer stop()
	p := puller(t, func(o *soci.Options) { o.Outage = -1 })
	wantError(t, p, addr+"/go/tree:1", soci.ErrFetch, "unexpected EOF")
}
