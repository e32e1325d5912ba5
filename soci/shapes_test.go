package soci_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/bits"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// oneBlock compresses to a single block of fixed codes without a repetition,
// like the fastest level of some encoders. Decoding can start only at its
// beginning.
func oneBlock(data []byte) []byte {
	out := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
	var acc uint64
	var n int
	put := func(v uint64, width int) {
		acc |= v << n
		for n += width; n >= 8; n -= 8 {
			out = append(out, byte(acc))
			acc >>= 8
		}
	}
	put(0b011, 3) // the last block, fixed codes (RFC 1951, section 3.2.6)
	for _, c := range data {
		if c < 144 {
			put(uint64(bits.Reverse8(0x30+c)), 8)
		} else {
			put(uint64(bits.Reverse16((0x190+uint16(c)-144)<<7)), 9)
		}
	}
	put(0, 7) // end of block
	put(0, 7) // padding of the last byte
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(data))
	return binary.LittleEndian.AppendUint32(out, uint32(len(data)))
}

// TestOneBlock checks that one core decodes a layer of one block from its
// beginning, and that the index of such a layer does not harm the next pull.
func TestOneBlock(t *testing.T) {
	content := goTree(t, "bufio")
	content = bytes.Repeat(content, 1+17<<20/len(content)) // layers below 16 MiB have no index
	data := tarOf(t, "large", string(content))
	l := &layer{tar: data, data: oneBlock(data)}
	if z, err := gzip.NewReader(bytes.NewReader(l.data)); err != nil {
		t.Fatal(err)
	} else if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("the test's encoder is wrong: %d bytes, %v", len(got), err)
	}
	o := origin(t, testorigin.Options{})
	ref := push(t, o, "one:1", image(t, here, l))
	indexes := t.TempDir()
	for range 2 {
		dir, clean := target(t)
		p := puller(t, func(o *soci.Options) { o.IndexDir, o.CheckpointBytes = indexes, 1<<20 })
		if _, err := p.Pull(t.Context(), ref, dir); err != nil {
			t.Fatal(err)
		}
		clean("root")
		if got, err := os.ReadFile(filepath.Join(dir, "large")); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v; want %d", len(got), err, len(content))
		}
	}
}

// TestProxyThatCompresses checks that a proxy that compresses blobs although
// identity was requested fails the pull, without a wrong byte in the tree.
func TestProxyThatCompresses(t *testing.T) {
	o := origin(t, testorigin.Options{})
	l := gzLayer(tarOf(t, "f", strings.Repeat("some text\n", 5000)))
	ref := push(t, o, "packed:1", image(t, here, l))
	digest, _ := l.Digest()
	to, err := url.Parse(o.URL())
	if err != nil {
		t.Fatal(err)
	}
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = transport
	var asked atomic.Value
	proxy.ModifyResponse = func(resp *http.Response) error {
		if !strings.HasSuffix(resp.Request.URL.Path, digest.String()) {
			return nil
		}
		asked.Store(resp.Request.Header.Get("Accept-Encoding"))
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		packed := gz(body)
		resp.Header.Set("Content-Encoding", "gzip")
		resp.Header.Set("Content-Length", strconv.Itoa(len(packed)))
		if resp.StatusCode == http.StatusPartialContent { // of the stored bytes, as it should be
			resp.Header.Set("Content-Range", "bytes 0-"+strconv.Itoa(len(packed)-1)+"/"+strconv.Itoa(len(packed)))
		}
		resp.ContentLength, resp.Body = int64(len(packed)), io.NopCloser(bytes.NewReader(packed))
		return nil
	}
	addr, stop := serve(t, proxy)
	defer stop()
	wantError(t, puller(t, nil), strings.Replace(ref, o.Host(), addr, 1), soci.ErrDigest, digest.String())
	if got := asked.Load(); got != "identity" {
		t.Errorf("asked for encoding %q", got)
	}
}
