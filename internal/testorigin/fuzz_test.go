package testorigin

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

func FuzzParseFaults(f *testing.F) {
	for _, s := range []string{
		"GetObject p=0.1 => status code=503 retry-after=1s",
		"GetObject key=weights/* every=100 => stall for=5s at=1MiB # slow disk\nGetBlob nth=2 => expire",
		"=> flip", `* key="a b;c" per=range first=3 after=1 max=9 => header header="X: y"`, "=> slow rate=8KiB; => reset at=random",
		"=> swap file=/tmp/x", "=> status retry-date=0s", "GetObject",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		faults, err := ParseFaults(s)
		if err != nil {
			return
		}
		var lines []string
		for _, f := range faults {
			lines = append(lines, f.String())
		}
		again, err := ParseFaults(strings.Join(lines, "\n"))
		if err != nil {
			t.Fatalf("%q came out as %q: %v", s, lines, err)
		}
		if !reflect.DeepEqual(faults, again) {
			t.Fatalf("%q came out as %q: %+v, want %+v", s, lines, again, faults)
		}
	})
}

func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-0", "bytes=5-", "bytes=-5", "bytes=-0", "bytes=9-1", "bytes=0-1,3-4", "items=0-1", "bytes=99999999999999999999-", "bytes= 1-2"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, s string, size int64) {
		if size < 0 {
			return
		}
		r := parseRange(s, size)
		switch r.kind {
		case rangeNone:
			if r.off != 0 || r.n != size {
				t.Errorf("%q of %d: %+v", s, size, r)
			}
		case rangePartial:
			if r.off < 0 || r.n <= 0 || r.off+r.n > size {
				t.Errorf("%q of %d: %+v", s, size, r)
			}
		case rangeUnsatisfiable:
		}
	})
}

func FuzzChunked(f *testing.F) {
	for _, s := range []string{
		"5\r\nhello\r\n0\r\n\r\n", "5;chunk-signature=ab\r\nhello\r\n0;chunk-signature=cd\r\n\r\n",
		"3\r\nabc\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", "0\r\n", "ffffffffffffffff\r\n", "5\r\nhel", "1\nx",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := newChunkedReader(bytes.NewReader(raw), nil)
		got, err := io.ReadAll(c)
		if len(got) > len(raw) {
			t.Errorf("%d bytes out of %d", len(got), len(raw))
		}
		if n, again := c.Read(make([]byte, 1)); n != 0 || again == nil || err != nil && !errors.Is(again, err) {
			t.Errorf("after %v: %d bytes, %v", err, n, again)
		}
		// The same bytes, one at a time, have the same result.
		slow, slowErr := io.ReadAll(newChunkedReader(&oneByteReader{raw}, nil))
		if !bytes.Equal(got, slow) || (err == nil) != (slowErr == nil) {
			t.Errorf("one byte at a time: %q %v, want %q %v", slow, slowErr, got, err)
		}
	})
}

type oneByteReader struct{ p []byte }

func (r *oneByteReader) Read(p []byte) (int, error) {
	if len(r.p) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(1, len(p))], r.p)
	r.p = r.p[n:]
	return n, nil
}

func FuzzAuthorization(f *testing.F) {
	const good = "AWS4-HMAC-SHA256 Credential=AKIA/20130524/us-east-1/s3/aws4_request,SignedHeaders=host;x-amz-date," +
		"Signature=4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
	for _, s := range []string{good, strings.ReplaceAll(good, ",", ", "), "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=a/b", "Bearer x"} {
		f.Add(s, "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2F20130524%2Fr%2Fs3%2Faws4_request&X-Amz-Expires=5")
	}
	f.Fuzz(func(t *testing.T, header, query string) {
		check := func(s sigv4, err error) {
			if err != nil {
				return
			}
			if s.accessKey == "" || len(s.signature) != 64 || len(s.date) != 8 {
				t.Errorf("%q %q accepted as %+v", header, query, s)
			}
			r := &http.Request{Method: "GET", URL: &url.URL{Path: "/"}, Header: http.Header{}}
			if len(s.sign(s.signingKey("secret"), r, unsignedPayload)) != 64 {
				t.Error("no signature")
			}
		}
		check(parseAuthorization(header))
		if q, err := url.ParseQuery(query); err == nil {
			check(parsePresigned(q))
		}
	})
}

func FuzzToken(f *testing.F) {
	g := registry{secret: []byte("k")}
	f.Add(g.makeToken(grant{Access: []access{{"a", []string{"pull"}}}}))
	f.Add("a.b")
	f.Fuzz(func(t *testing.T, s string) {
		gr, err := g.parseGrant(s)
		if err == nil && g.makeToken(gr) != s {
			t.Errorf("%q accepted, though it is not what %+v makes", s, gr)
		}
	})
}
