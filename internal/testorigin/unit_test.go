package testorigin

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// exampleIdentity is the signer of Amazon's published example of a signed
// upload in chunks.
func exampleIdentity() identity {
	at, _ := time.Parse(sigTimeFormat, "20130524T000000Z")
	s := sigv4{
		accessKey: "AKIAIOSFODNN7EXAMPLE", date: "20130524", region: "us-east-1", service: "s3", at: at,
		signature: "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
	}
	return identity{sig: s, key: s.signingKey("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")}
}

func TestSeedSignatureOfAmazonsExample(t *testing.T) {
	id := exampleIdentity()
	id.sig.signed = []string{"content-encoding", "content-length", "host", "x-amz-content-sha256", "x-amz-date", "x-amz-decoded-content-length", "x-amz-storage-class"}
	const payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	r := &http.Request{
		Method: "PUT", Host: "s3.amazonaws.com", ContentLength: 66824, URL: &url.URL{Path: "/examplebucket/chunkObject.txt"},
		Header: http.Header{},
	}
	for name, value := range map[string]string{
		"Content-Encoding": "aws-chunked", "X-Amz-Content-Sha256": payload, "X-Amz-Date": "20130524T000000Z",
		"X-Amz-Decoded-Content-Length": "66560", "X-Amz-Storage-Class": "REDUCED_REDUNDANCY",
	} {
		r.Header.Set(name, value)
	}
	if got := id.sig.sign(id.key, r, payload); got != id.sig.signature {
		t.Errorf("signature %s, want %s", got, id.sig.signature)
	}
}

func TestChunkSignaturesOfAmazonsExample(t *testing.T) {
	body := func(spoil bool) io.Reader {
		a := bytes.Repeat([]byte("a"), 65536)
		if spoil {
			a[100] = 'b'
		}
		return io.MultiReader(
			strings.NewReader("10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"),
			bytes.NewReader(a), strings.NewReader("\r\n400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n"),
			bytes.NewReader(bytes.Repeat([]byte("a"), 1024)),
			strings.NewReader("\r\n0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n"))
	}
	got, err := io.ReadAll(newChunkedReader(body(false), newChunkVerifier(exampleIdentity())))
	if err != nil || len(got) != 66560 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err = io.ReadAll(newChunkedReader(body(true), newChunkVerifier(exampleIdentity()))); !errors.Is(err, errChunkSignature) {
		t.Errorf("a changed byte: %v", err)
	}
}

func TestTrailerSignatureOfAmazonsExample(t *testing.T) {
	id := exampleIdentity()
	id.sig.signature = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
	body := func(sum string) io.Reader {
		return io.MultiReader(
			strings.NewReader("10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n"),
			bytes.NewReader(bytes.Repeat([]byte("a"), 65536)),
			strings.NewReader("\r\n400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n"),
			bytes.NewReader(bytes.Repeat([]byte("a"), 1024)),
			strings.NewReader("\r\n0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n"+
				"x-amz-checksum-crc32c:"+sum+"\r\n"+
				"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"))
	}
	c := newChunkedReader(body("sOO8/Q=="), newChunkVerifier(id))
	if got, err := io.ReadAll(c); err != nil || len(got) != 66560 || c.trailer.Get("X-Amz-Checksum-Crc32c") != "sOO8/Q==" {
		t.Errorf("%d bytes, trailer %v, %v", len(got), c.trailer, err)
	}
	if _, err := io.ReadAll(newChunkedReader(body("sOO8/w=="), newChunkVerifier(id))); !errors.Is(err, errChunkSignature) {
		t.Errorf("a changed trailer: %v", err)
	}
}

func TestUploadInChunksWithTrailer(t *testing.T) {
	o, c := start(t, Options{}), client(t)
	if err := o.CreateBucket("b", BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	put := func(sum string) (*http.Response, []byte) {
		body := "5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32c:" + sum + "\r\n\r\n"
		resp, got, err := do(t, c, "PUT", o.ObjectURL("b", "k"), []byte(body), "X-Amz-Content-Sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
			"X-Amz-Decoded-Content-Length", "11", "Content-Encoding", "aws-chunked", "X-Amz-Trailer", "x-amz-checksum-crc32c")
		if err != nil {
			t.Fatal(err)
		}
		return resp, got
	}
	h := newChecksum("CRC32C")
	h.Write([]byte("hello world"))
	sum := base64.StdEncoding.EncodeToString(h.Sum(nil))
	if resp, body := put(sum); resp.StatusCode != 200 || resp.Header.Get("X-Amz-Checksum-Crc32c") != sum {
		t.Fatalf("%s %s", resp.Status, body)
	}
	if resp, body := put("AAAAAA=="); resp.StatusCode != 400 || !bytes.Contains(body, []byte("BadDigest")) {
		t.Errorf("%s %s", resp.Status, body)
	}
	resp, got, _ := do(t, c, "GET", o.ObjectURL("b", "k"), nil, "X-Amz-Checksum-Mode", "ENABLED")
	if string(got) != "hello world" || resp.Header.Get("X-Amz-Checksum-Crc32c") != sum || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%q %v", got, resp.Header)
	}
}

func TestCombinedChecksums(t *testing.T) {
	data := sample(100_001)
	for _, a := range []string{"CRC32", "CRC32C", "CRC64NVME"} {
		var sums []string
		var sizes []int64
		for _, cut := range [][2]int{{0, 1}, {1, 60_000}, {60_000, 60_000}, {60_000, 100_001}} {
			h := newChecksum(a)
			h.Write(data[cut[0]:cut[1]])
			sums, sizes = append(sums, base64.StdEncoding.EncodeToString(h.Sum(nil))), append(sizes, int64(cut[1]-cut[0]))
		}
		h := newChecksum(a)
		h.Write(data)
		got, ok := combineSums(a, sums, sizes)
		if want := base64.StdEncoding.EncodeToString(h.Sum(nil)); !ok || got != want {
			t.Errorf("%s: %s, want %s", a, got, want)
		}
	}
	if _, ok := combineSums("SHA256", []string{""}, []int64{0}); ok {
		t.Error("hashes of parts can't be combined")
	}
}

// TestCoverageAgainstBitmap compares the intervals with a bitmap on random spans.
func TestCoverageAgainstBitmap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var v coverage
		var seen [64]bool
		var want Coverage
		for range 30 {
			from := rng.Int64N(64)
			to := from + rng.Int64N(64-from+1)
			v.add(from, to)
			for i := from; i < to; i++ {
				if seen[i] {
					want.Again++
				} else {
					want.Unique++
				}
				seen[i] = true
			}
		}
		if v.Coverage != want {
			t.Fatalf("%+v, want %+v (%v %v)", v.Coverage, want, v.from, v.to)
		}
		for i := 1; i < len(v.from); i++ {
			if v.from[i] <= v.to[i-1] {
				t.Fatalf("intervals touch: %v %v", v.from, v.to)
			}
		}
	}
}

func TestLatencyDistribution(t *testing.T) {
	l := Latency{Min: 10 * time.Millisecond, Mean: 20 * time.Millisecond, Tail: 0.01, TailDelay: 5 * time.Second}
	var sum time.Duration
	tail := 0
	const n = 20_000
	for i := range uint64(n) {
		d := l.draw(3, i)
		if d != l.draw(3, i) {
			t.Fatal("the latency is not a function of the seed and the request's number")
		}
		if d == l.TailDelay {
			tail++
			continue
		}
		if d < l.Min {
			t.Fatalf("%v is below Min", d)
		}
		sum += d
	}
	if mean := sum / n; mean < 28*time.Millisecond || mean > 32*time.Millisecond {
		t.Errorf("mean %v, want Min + Mean = 30ms", mean)
	}
	if tail < 150 || tail > 250 {
		t.Errorf("%d of %d in the tail, want about 200", tail, n)
	}
}

func TestScriptErrors(t *testing.T) {
	for _, tt := range []struct{ script, want string }{
		{"GetObject", "no action"},
		{"GetObject => explode", "is unknown"},
		{"GetObject p=2 => flip", "not a share"},
		{"GetObject first=-1 => flip", "can't be negative"},
		{"GetObject colour=red => flip", "unknown condition"},
		{"GetObject => flip colour=red", "unknown param"},
		{"GetObject => slow", "give rate="},
		{"GetObject => status code=99", "not an HTTP status"},
		{"Get|Object => flip", "not a glob"},
		{`GetObject key="open => flip`, "not closed"},
		{"GetObject => flip => flip", "second =>"},
		{"GetObject => header header=oops", "Name: value"},
		{"GetObject => stall for=5", "for=5"},
	} {
		if _, err := ParseFaults(tt.script); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: error %v, want one with %q", tt.script, err, tt.want)
		}
	}
	if faults, err := ParseFaults(" # nothing\n\n;;"); err != nil || len(faults) != 0 {
		t.Errorf("an empty script: %v %v", faults, err)
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		opts Options
		want string
	}{
		{Options{Addr: "nowhere"}, "not host:port"},
		{Options{FirstByteLatency: Latency{Tail: 2}}, "not a share"},
		{Options{Registry: RegistryOptions{Auth: "magic"}}, "use none, token or basic"},
		{Options{Credentials: []Credential{{AccessKey: "a"}}}, "give both"},
		{Options{Faults: []Fault{{}}}, "no action"},
	} {
		if _, err := Start(tt.opts); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: error %v, want one with %q", tt.opts, err, tt.want)
		}
	}
	if _, err := Start(Options{Addr: "127.0.0.1:1", Dir: "/dev/null/x"}); err == nil {
		t.Error("started on an unusable port and in an unusable folder")
	}
}

func TestConnRateKeepsBytes(t *testing.T) {
	o, c := start(t, Options{ConnRate: 50 << 20}), client(t)
	data := sample(3 << 20)
	if err := o.Put("b", "mem", data); err != nil {
		t.Fatal(err)
	}
	if resp, _, err := do(t, c, "PUT", o.ObjectURL("b", "file"), data); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	o.SetFaults(Fault{Op: "GetObject", Key: "b/file", Nth: 2, Action: ActReset, At: 100_000})
	for _, key := range []string{"mem", "file"} {
		if _, got, err := do(t, c, "GET", o.ObjectURL("b", key), nil); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", key, len(got), err)
		}
	}
	if _, got, err := do(t, c, "GET", o.ObjectURL("b", "file"), nil); err == nil || len(got) != 100_000 {
		t.Errorf("reset of a capped connection: %d bytes, %v", len(got), err)
	}
}

func TestTapSeesRequests(t *testing.T) {
	events := make(chan Event, 10)
	o, c := start(t, Options{Tap: func(e Event) { events <- e }}), client(t)
	if err := o.Put("b", "k", sample(100)); err != nil {
		t.Fatal(err)
	}
	o.SetFaults(Fault{Action: ActFlip})
	if _, _, err := do(t, c, "GET", o.ObjectURL("b", "k"), nil, "Range", "bytes=0-9"); err != nil {
		t.Fatal(err)
	}
	first, last := <-events, <-events
	if first.Done || first.Op != "GetObject" || first.Key != "b/k" || first.Range != "bytes=0-9" || len(first.Faults) != 1 {
		t.Errorf("arrival %+v", first)
	}
	if !last.Done || last.Status != 206 || last.Bytes != 10 {
		t.Errorf("end %+v", last)
	}
}

func TestKeysByURL(t *testing.T) {
	o, c := start(t, Options{}), client(t)
	for i, key := range []string{"a b", "a+b", "a%2Fb", "x//y", "dir/", "ü", "q?x#y", "../up", "."} {
		want := []byte(fmt.Sprint(i))
		if err := o.Put("b", key, want); err != nil {
			t.Fatal(err)
		}
		if _, got, err := do(t, c, "GET", o.ObjectURL("b", key), nil); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %q %v", key, got, err)
		}
	}
}
