package doh

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"
)

const fullAt = 1 << 15

// echo answers queries that begin with "hit" with the query and as many bytes
// as a number behind it says; everything else goes to ServeHTTP.
type echo struct {
	hits, slow atomic.Int64
	wait       chan struct{} // ServeHTTP waits for it, if it is not nil
}

func (e *echo) Answer(hint *uint32, query, buf []byte, _ bool) ([]byte, uint32, bool) {
	*hint++
	if !bytes.HasPrefix(query, []byte("hit")) {
		return nil, 0, false
	}
	e.hits.Add(1)
	n := 0
	_, _ = fmt.Sscanf(string(query), "hit%d", &n)
	return append(append(buf, query...), make([]byte, n)...), 60, true
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.slow.Add(1)
	if e.wait != nil {
		select {
		case <-e.wait:
		case <-r.Context().Done():
			return
		}
	}
	body, _ := io.ReadAll(r.Body)
	switch r.URL.Path {
	case "/panic":
		panic("as a plugin may")
	case "/none":
		http.Error(w, "no such page", http.StatusNotFound)
	default:
		w.Header().Set("X-Seen", fmt.Sprint(r.Method, " ", r.Host, " ", r.RequestURI, " ", r.Proto, " ", r.ContentLength, " ", r.Header.Get("X-Ask"), " ", r.TLS != nil, " ", r.RemoteAddr != ""))
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(body)
	}
}

// serve runs sessions over connections of l, with blocking reads and writes.
func serve(t *testing.T, l net.Listener, h Handler) {
	t.Helper()
	var running sync.WaitGroup
	var mu sync.Mutex // guards open
	var open []net.Conn
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			running.Go(func() { serveConn(c, h) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close() // the client may not know yet that it is idle
		}
		mu.Unlock()
		running.Wait()
	})
}

func serveConn(c net.Conn, h Handler) {
	defer c.Close()
	var requests sync.WaitGroup
	s, out := NewSession(Options{
		Handler: func() Handler { return h },
		Send:    func(p []byte) error { _, err := c.Write(p); return err },
		Hold:    func() { requests.Add(1) }, Done: func() { requests.Done() }, Busy: func() bool { return false },
		Full: fullAt, Local: c.LocalAddr(), Remote: c.RemoteAddr(), TLS: &tls.ConnectionState{},
	})
	defer requests.Wait()
	defer s.Close()
	in, buf := []byte(nil), make([]byte, 1<<16)
	for {
		if _, err := c.Write(out); err != nil {
			return
		}
		var used int
		var more bool
		var err error
		used, out, more, err = s.Feed(in, out[:0])
		in = in[used:]
		if more {
			continue
		}
		if _, werr := c.Write(out); werr != nil || err != nil {
			return
		}
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		in, out = append(in, buf[:n]...), out[:0]
	}
}

// client returns a server of h and a client of net/http that speaks HTTP/2 to
// it.
func client(t *testing.T, h Handler) (*http.Client, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	serve(t, tls.NewListener(l, config), h)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}} //nolint:gosec // a server of this test
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}, "https://" + l.Addr().String()
}

func do(t *testing.T, c *http.Client, method, url, mediaType string, body []byte) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if mediaType != "" {
		r.Header.Set("Content-Type", mediaType)
	}
	r.Header.Set("X-Ask", "1")
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, got
}

func get(query string) string {
	return "/dns-query?dns=" + base64.RawURLEncoding.EncodeToString([]byte(query))
}

// Queries in the forms of RFC 8484 are answered at once, with the headers that
// a cache needs; every other request goes to ServeHTTP as net/http makes it.
func TestRequestsOfNetHTTP(t *testing.T) {
	t.Parallel()
	e := &echo{}
	c, url := client(t, e)
	long := "hit" + strings.Repeat("x", maxQuery)
	for _, tt := range []struct {
		method, path, mediaType, body string
		status                        int
		want                          string
		hit                           bool
	}{
		{http.MethodPost, "/dns-query", mediaType, "hit", 200, "hit", true},
		{http.MethodGet, get("hit"), "", "", 200, "hit", true},
		{http.MethodGet, get("hit"), mediaType, "", 200, "hit", true},
		{http.MethodPost, "/dns-query", mediaType, "miss", 200, "miss", false},
		{http.MethodPost, "/dns-query", "text/plain", "hit", 200, "hit", false},
		{http.MethodPost, "/dns-query", "", "hit", 200, "hit", false},
		{http.MethodPost, "/dns-query?x", mediaType, "hit", 200, "hit", false},
		{http.MethodPost, "/other", mediaType, "hit", 200, "hit", false},
		{http.MethodPut, "/dns-query", mediaType, "hit", 200, "hit", false},
		{http.MethodGet, get("hit") + "&x=y", "", "", 200, "", false},
		{http.MethodGet, "/dns-query?dns=!!", "", "", 200, "", false},
		{http.MethodGet, "/dns-query", "", "", 200, "", false},
		{http.MethodPost, "/dns-query", mediaType, long, 200, long, false},
		{http.MethodHead, get("hit"), "", "", 200, "", false},
		{http.MethodGet, "/none", "", "", 404, "no such page\n", false},
	} {
		hits := e.hits.Load()
		resp, got := do(t, c, tt.method, url+tt.path, tt.mediaType, []byte(tt.body))
		if resp.StatusCode != tt.status || string(got) != tt.want || resp.ProtoMajor != 2 || (e.hits.Load() > hits) != tt.hit {
			t.Errorf("%s %.40s: %s, %.40q", tt.method, tt.path, resp.Status, got)
		}
		when, err := http.ParseTime(resp.Header.Get("Date"))
		if err != nil || time.Since(when) > time.Hour {
			t.Errorf("date %q", resp.Header.Get("Date"))
		}
		if tt.hit && (resp.Header.Get("Content-Type") != mediaType || resp.Header.Get("Cache-Control") != "max-age=60" || resp.ContentLength != int64(len(tt.want))) {
			t.Errorf("%v", resp.Header)
		}
		if want := fmt.Sprint(tt.method, " ", strings.TrimPrefix(url, "https://"), " ", tt.path, " HTTP/2.0 ", len(tt.body), " 1 true true"); !tt.hit && tt.status == 200 && resp.Header.Get("X-Seen") != want {
			t.Errorf("%q, want %q", resp.Header.Get("X-Seen"), want)
		}
	}
}

// Many requests are under way at once, of all kinds, with replies of up to
// 64 KiB, which need more window than there is at first.
func TestManyRequestsAtOnce(t *testing.T) {
	t.Parallel()
	e := &echo{}
	c, url := client(t, e)
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			for j := range 50 {
				n := []int{0, 100, 20_000, 65_000}[(i+j)%4]
				query := fmt.Sprintf("hit%d", n)
				if j%5 == 4 {
					query = strings.Repeat("slow", 5_000)
					n = 0
				}
				resp, got := do(t, c, http.MethodPost, url+"/dns-query", mediaType, []byte(query))
				if resp.StatusCode != http.StatusOK || !bytes.HasPrefix(got, []byte(query)) || len(got) != len(query)+n {
					t.Errorf("%s, %d bytes, want %d", resp.Status, len(got), len(query)+n)
				}
			}
		})
	}
	all.Wait()
	if e.hits.Load() != 32*40 || e.slow.Load() != 32*10 {
		t.Errorf("%d hits, %d others", e.hits.Load(), e.slow.Load())
	}
}

// A client that gives a request up cancels its context; a panic ends the
// stream only.
func TestRequestsThatEndEarly(t *testing.T) {
	t.Parallel()
	e := &echo{wait: make(chan struct{})}
	c, url := client(t, e)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/dns-query", strings.NewReader("waits"))
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		resp, err := c.Do(r)
		if err == nil {
			resp.Body.Close()
		}
		failed <- err
	}()
	for e.slow.Load() == 0 {
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
		}
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(e.wait)
	r, err = http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/panic", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := c.Do(r); err == nil {
		resp.Body.Close()
		t.Error("no error after a panic")
	}
	if resp, got := do(t, c, http.MethodGet, url+get("hit"), "", nil); resp.StatusCode != http.StatusOK || string(got) != "hit" {
		t.Errorf("%s %q", resp.Status, got)
	}
}

// script is a client that writes frames of its own.
type script struct {
	out []byte
	enc *hpack.Encoder
	buf bytes.Buffer
}

func newScript() *script {
	s := &script{out: []byte(preface)}
	s.enc = hpack.NewEncoder(&s.buf)
	return s
}

func (s *script) frame(kind, flags byte, stream uint32, payload ...byte) *script {
	s.out = append(appendFrameHeader(s.out, kind, flags, stream, len(payload)), payload...)
	return s
}

func (s *script) headers(flags byte, stream uint32, fields ...string) *script {
	s.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = s.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return s.frame(frameHeaders, flags, stream, s.buf.Bytes()...)
}

var post = []string{":method", "POST", ":scheme", "https", ":authority", "dns.test", ":path", "/dns-query", "content-type", mediaType}

// result is what a session says to a script: frames by kind and stream, and
// the error that ended it.
func (s *script) result(t testing.TB) (frames []frame, err error) {
	t.Helper()
	e := &echo{}
	session, out := NewSession(Options{
		Handler: func() Handler { return e }, Send: func([]byte) error { return nil },
		Hold: func() {}, Done: func() {}, Busy: func() bool { return false },
		Full: 1 << 30, MaxStreams: 3, Local: &net.TCPAddr{}, Remote: &net.TCPAddr{},
	})
	defer session.Close()
	_, out, _, err = session.Feed(s.out, out)
	for len(out) > 0 {
		f, n, perr := parseFrame(out)
		if perr != nil || n == 0 {
			t.Fatalf("the session sends no frame: %v, %x", perr, out)
		}
		frames, out = append(frames, f), out[n:]
	}
	return frames, err
}

// resets returns the error codes of RST_STREAM by stream.
func resets(frames []frame) map[uint32]code {
	all := map[uint32]code{}
	for _, f := range frames {
		if f.kind == frameResetStream {
			all[f.stream] = code(binary.BigEndian.Uint32(f.payload))
		}
	}
	return all
}

// Whatever breaks the rules of RFC 9113 ends the connection, with a GOAWAY
// that says why.
func TestErrorsOfTheConnection(t *testing.T) {
	t.Parallel()
	headers := byte(flagEndHeaders)
	for name, tt := range map[string]struct {
		s    *script
		want code
	}{
		"no preface":                 {&script{out: []byte("GET / HTTP/1.1\r\n\r\n12345678901234567890")}, codeProtocol},
		"long frame":                 {newScript().frame(frameData, 0, 1, make([]byte, maxFrameLen+1)...), codeFrameSize},
		"even stream":                {newScript().headers(headers, 2, post...), codeProtocol},
		"stream 0":                   {newScript().headers(headers, 0, post...), codeProtocol},
		"data without stream":        {newScript().frame(frameData, 0, 0), codeProtocol},
		"data before headers":        {newScript().frame(frameData, 0, 1), codeProtocol},
		"padding":                    {newScript().headers(headers, 1, post...).frame(frameData, flagPadded, 1, 9, 1), codeProtocol},
		"no padding":                 {newScript().headers(headers, 1, post...).frame(frameData, flagPadded, 1), codeFrameSize},
		"no priority":                {newScript().frame(frameHeaders, headers|flagPriority, 1, 1), codeFrameSize},
		"stream again":               {newScript().headers(headers|flagEndStream, 3, post...).headers(headers, 1, post...), codeStreamClosed},
		"interrupted block":          {newScript().headers(0, 1, post...).frame(framePing, 0, 0, make([]byte, 8)...), codeProtocol},
		"block of another":           {newScript().headers(0, 1, post...).frame(frameContinuation, headers, 3), codeProtocol},
		"no block":                   {newScript().frame(frameContinuation, headers, 1), codeProtocol},
		"empty continuations":        {newScript().headers(0, 1, post...).frame(frameContinuation, 0, 1), codeEnhanceCalm},
		"endless block":              {endlessBlock(), codeEnhanceCalm},
		"compression":                {newScript().frame(frameHeaders, headers, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), codeCompression},
		"cut block":                  {newScript().frame(frameHeaders, headers, 1, 0x40), codeCompression},
		"push":                       {newScript().frame(framePushPromise, 0, 1), codeProtocol},
		"ping of a stream":           {newScript().frame(framePing, 0, 1, make([]byte, 8)...), codeProtocol},
		"short ping":                 {newScript().frame(framePing, 0, 0, 1), codeFrameSize},
		"reset of an idle stream":    {newScript().frame(frameResetStream, 0, 1, 0, 0, 0, 0), codeProtocol},
		"short reset":                {newScript().headers(headers, 1, post...).frame(frameResetStream, 0, 1), codeFrameSize},
		"priority of 0":              {newScript().frame(framePriority, 0, 0, 0, 0, 0, 0, 0), codeProtocol},
		"short priority":             {newScript().frame(framePriority, 0, 1), codeFrameSize},
		"settings of a stream":       {newScript().frame(frameSettings, 0, 1), codeProtocol},
		"settings ack with payload":  {newScript().frame(frameSettings, flagAck, 0, make([]byte, 6)...), codeFrameSize},
		"settings length":            {newScript().frame(frameSettings, 0, 0, 1), codeFrameSize},
		"push setting":               {newScript().frame(frameSettings, 0, 0, 0, settingEnablePush, 0, 0, 0, 2), codeProtocol},
		"frame size setting":         {newScript().frame(frameSettings, 0, 0, 0, settingMaxFrameSize, 0, 0, 0, 2), codeProtocol},
		"window setting":             {newScript().frame(frameSettings, 0, 0, 0, settingInitialWindow, 0xff, 0, 0, 0), codeFlowControl},
		"window setting of a stream": {newScript().headers(headers, 1, post...).frame(frameWindowUpdate, 0, 1, 0x7f, 0, 0, 0).frame(frameSettings, 0, 0, 0, settingInitialWindow, 0x7f, 0xff, 0xff, 0xff), codeFlowControl},
		"short window":               {newScript().frame(frameWindowUpdate, 0, 0), codeFrameSize},
		"window of 0":                {newScript().frame(frameWindowUpdate, 0, 0, 0, 0, 0, 0), codeProtocol},
		"window too large":           {newScript().frame(frameWindowUpdate, 0, 0, 0x7f, 0xff, 0xff, 0xff), codeFlowControl},
		"window of an idle stream":   {newScript().frame(frameWindowUpdate, 0, 1, 0, 0, 0, 1), codeProtocol},
		"headers after the end":      {newScript().headers(headers|flagEndStream, 1, append([]string{}, ":method", "GET", ":scheme", "https", ":path", "/x")...).headers(headers|flagEndStream, 1, "a", "b"), codeStreamClosed},
	} {
		frames, err := tt.s.result(t)
		last := frames[len(frames)-1]
		if name == "no preface" && err != nil {
			continue // the client does not know what a frame is
		}
		if err == nil || last.kind != frameGoAway || code(binary.BigEndian.Uint32(last.payload[4:])) != tt.want {
			t.Errorf("%s: %v, %+v, want code %d", name, err, last, tt.want)
		}
	}
}

func endlessBlock() *script {
	s := newScript().headers(0, 1, post...)
	for range maxHeaderBlock/maxFrameLen + 1 {
		s.frame(frameContinuation, 0, 1, make([]byte, maxFrameLen)...)
	}
	return s
}

// Errors of one request reset its stream; the next one is answered.
func TestErrorsOfAStream(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		fields []string
		body   string
		want   code
	}{
		"no method":         {[]string{":scheme", "https", ":path", "/dns-query"}, "hit", codeProtocol},
		"no scheme":         {[]string{":method", "POST", ":path", "/dns-query"}, "hit", codeProtocol},
		"no path":           {[]string{":method", "POST", ":scheme", "https"}, "hit", codeProtocol},
		"relative path":     {[]string{":method", "POST", ":scheme", "https", ":path", "dns-query"}, "hit", codeProtocol},
		"method twice":      {append([]string{":method", "POST"}, post...), "hit", codeProtocol},
		"unknown pseudo":    {append([]string{":status", "200"}, post...), "hit", codeProtocol},
		"pseudo at the end": {append([]string{"a", "b"}, post...), "hit", codeProtocol},
		"upper case":        {append(append([]string{}, post...), "Accept", "x"), "hit", codeProtocol},
		"line break":        {append(append([]string{}, post...), "accept", "x\r\ny"), "hit", codeProtocol},
		"connection":        {append(append([]string{}, post...), "connection", "close"), "hit", codeProtocol},
		"te":                {append(append([]string{}, post...), "te", "gzip"), "hit", codeProtocol},
		"length":            {append(append([]string{}, post...), "content-length", "4"), "hit", codeProtocol},
		"no number":         {append(append([]string{}, post...), "content-length", "x"), "hit", codeProtocol},
		"two lengths":       {append(append([]string{}, post...), "content-length", "3", "content-length", "4"), "hit", codeProtocol},
	} {
		s := newScript().headers(flagEndHeaders, 1, tt.fields...).frame(frameData, flagEndStream, 1, []byte(tt.body)...)
		s.headers(flagEndHeaders, 3, post...).frame(frameData, flagEndStream, 3, []byte("hit")...)
		frames, err := s.result(t)
		got, reset := resets(frames)[1]
		if last := frames[len(frames)-1]; err != nil || !reset || got != tt.want && got != codeStreamClosed || last.kind != frameData || string(last.payload) != "hit" {
			t.Errorf("%s: %v, %+v", name, err, frames)
		}
	}
	// More requests than the setting says.
	s := newScript()
	for id := uint32(1); id < 11; id += 2 {
		s.headers(flagEndHeaders, id, post...)
	}
	if frames, err := s.result(t); err != nil || resets(frames)[7] != codeRefused || resets(frames)[9] != codeRefused || len(resets(frames)) != 2 {
		t.Errorf("%v, %+v", err, frames)
	}
}

// A query is found whatever surrounds it: padding, priority, several frames,
// trailers, unknown frames.
func TestFormsOfARequest(t *testing.T) {
	t.Parallel()
	s := newScript().frame(frameSettings, 0, 0).frame(99, 0, 7, 1, 2, 3).frame(frameWindowUpdate, 0, 0, 0, 0, 1, 0)
	s.headers(flagEndHeaders, 1, post...).frame(frameData, 0, 1, 'h').frame(frameData, 0, 1).frame(frameData, flagEndStream, 1, []byte("it")...)
	s.headers(flagEndHeaders, 3, post...).frame(frameData, flagPadded|flagEndStream, 3, []byte("\x02hit\x00\x00")...)
	s.headers(flagEndHeaders, 5, post...).frame(frameData, 0, 5, []byte("hit")...).headers(flagEndHeaders|flagEndStream, 5, "trailer", "x")
	s.headers(0, 7, post...).frame(frameContinuation, flagEndHeaders, 7).frame(frameData, flagEndStream, 7, []byte("hit")...)
	frames, err := s.result(t)
	answered := map[uint32]string{}
	for _, f := range frames {
		if f.kind == frameData {
			answered[f.stream] += string(f.payload)
		}
	}
	if err != nil || len(answered) != 4 || answered[1] != "hit" || answered[3] != "hit" || answered[5] != "hit" || answered[7] != "hit" {
		t.Errorf("%v, %v", err, answered)
	}
}

// A client that opens no window makes the session keep a bounded number of
// bytes.
func TestStalledRepliesAreBounded(t *testing.T) {
	t.Parallel()
	s := newScript().frame(frameSettings, 0, 0, 0, settingInitialWindow, 0, 0, 0, 0)
	for id := uint32(1); id < 100; id += 2 {
		s.headers(flagEndHeaders, id, post...).frame(frameData, flagEndStream, id, []byte("hit60000")...)
		s.frame(frameResetStream, 0, id, 0, 0, 0, 0)
	}
	frames, err := s.result(t)
	if err != nil {
		t.Errorf("resets do not give the bytes back: %v", err)
	}
	for _, f := range frames {
		if f.kind == frameData {
			t.Errorf("DATA without a window: %+v", f)
		}
	}
	s = newScript().frame(frameSettings, 0, 0, 0, settingInitialWindow, 0, 0, 0, 0)
	s.headers(flagEndHeaders, 1, post...).frame(frameData, flagEndStream, 1, []byte("hit3")...)
	s.frame(frameWindowUpdate, 0, 1, 0, 0, 0, 3).frame(frameWindowUpdate, 0, 1, 0, 0, 0, 9)
	frames, err = s.result(t)
	var got string
	for _, f := range frames {
		if f.kind == frameData {
			got += string(f.payload)
		}
	}
	if err != nil || got != "hit3\x00\x00\x00" {
		t.Errorf("%v, %q", err, got)
	}
}

// A client that leaves many bodies unfinished loses some of its requests, one
// whose body is too long its stream.
func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	s := newScript()
	for id := uint32(1); id < 40; id += 2 {
		s.headers(flagEndHeaders, id, post...)
		for range 4 {
			s.frame(frameData, 0, id, make([]byte, maxFrameLen-1)...)
		}
		if id > 2 {
			s.frame(frameResetStream, 0, id, 0, 0, 0, 0)
		}
	}
	frames, err := s.result(t)
	if err != nil || len(resets(frames)) != 0 {
		t.Errorf("%v, %v", err, resets(frames))
	}
	s = newScript().headers(flagEndHeaders, 1, post...)
	for range 5 {
		s.frame(frameData, 0, 1, make([]byte, maxFrameLen)...)
	}
	if frames, err := s.result(t); err != nil || resets(frames)[1] != codeFlowControl {
		t.Errorf("%v, %v", err, resets(frames))
	}
	session, out := NewSession(Options{
		Handler: func() Handler { return always("") }, Send: func([]byte) error { return nil },
		Hold: func() {}, Done: func() {}, Busy: func() bool { return false }, Full: 1 << 30,
	})
	defer session.Close()
	s = newScript()
	for id := uint32(1); id < 80; id += 2 {
		s.headers(flagEndHeaders, id, post...)
		for range 3 {
			s.frame(frameData, 0, id, make([]byte, maxFrameLen)...)
		}
	}
	if _, _, _, err := session.Feed(s.out, out); err != nil || session.m.bodies > maxBodies {
		t.Errorf("%v, %d bytes", err, session.m.bodies)
	}
}

// A hit allocates nothing but the entry of a stream whose body comes in a
// frame of its own.
func TestHitsAllocateLittle(t *testing.T) {
	s := newScript()
	const fields = flagEndHeaders | flagEndStream
	session, _ := NewSession(Options{
		Handler: func() Handler { return always("reply") }, Send: func([]byte) error { return nil },
		Hold: func() {}, Done: func() {}, Busy: func() bool { return false }, Full: 1 << 30,
		Local: &net.TCPAddr{}, Remote: &net.TCPAddr{},
	})
	out := make([]byte, 0, 1<<16)
	feed := func(in []byte) {
		var err error
		if _, out, _, err = session.Feed(in, out[:0]); err != nil {
			t.Fatal(err)
		}
		session.m.window = 1 << 30
	}
	id := uint32(1)
	query := []string{":method", "GET", ":scheme", "https", ":authority", "dns.test", ":path", get("query"), "accept", mediaType}
	feed(s.headers(fields, id, query...).out)
	in := make([]byte, 0, 1<<10)
	if n := testing.AllocsPerRun(1000, func() {
		id += 2
		s.out = in
		s.headers(fields, id, query...)
		feed(s.out)
	}); n > 1 {
		t.Errorf("GET: %v allocations", n)
	}
	if n := testing.AllocsPerRun(1000, func() {
		id += 2
		s.out = in
		s.headers(flagEndHeaders, id, post...).frame(frameData, flagEndStream, id, 'q')
		feed(s.out)
	}); n > 2 {
		t.Errorf("POST: %v allocations", n)
	}
}

// always answers every query.
type always string

func (a always) Answer(_ *uint32, _, buf []byte, _ bool) ([]byte, uint32, bool) {
	return append(buf, a...), 1, true
}

func (always) ServeHTTP(http.ResponseWriter, *http.Request) {}

// Whatever comes, in whatever pieces: the session does not panic, sends whole
// frames, and says the same.
func FuzzFeed(f *testing.F) {
	f.Add([]byte(preface), 3)
	f.Add(newScript().headers(flagEndHeaders, 1, post...).frame(frameData, flagEndStream, 1, []byte("hit")...).out, 30)
	f.Add(newScript().headers(flagEndHeaders|flagEndStream, 1, ":method", "GET", ":scheme", "https", ":path", get("hit9")).out, 1)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		feed := func(parts ...[]byte) ([]byte, error) {
			session, out := NewSession(Options{
				Handler: func() Handler { return always("reply") }, Send: func([]byte) error { return nil },
				Hold: func() {}, Done: func() {}, Busy: func() bool { return false }, Full: 1 << 30,
				Local: &net.TCPAddr{}, Remote: &net.TCPAddr{},
			})
			defer session.Close()
			session.m.dateAt = math64
			var rest []byte
			for _, p := range parts {
				rest = append(rest, p...)
				var used int
				var more bool
				var err error
				used, out, more, err = session.Feed(rest, out)
				if more || used > len(rest) {
					t.Fatalf("%d of %d bytes, more: %v", used, len(rest), more)
				}
				if rest = rest[used:]; err != nil {
					return out, err
				}
			}
			return out, nil
		}
		out, err := feed(in)
		for p := out; len(p) > 0; {
			_, n, perr := parseFrame(p)
			if perr != nil || n == 0 {
				t.Fatalf("no frame: %v", perr)
			}
			p = p[n:]
		}
		at := max(0, min(len(in), cut))
		again, err2 := feed(in[:at], in[at:])
		if (err == nil) != (err2 == nil) || frames(again) != frames(out) {
			t.Errorf("%v and %v in two pieces", err, err2)
		}
	})
}

const math64 = 1 << 62

// frames counts the frames of replies, whose dates and window updates may
// differ.
func frames(out []byte) (n int) {
	for len(out) > 0 {
		f, length, _ := parseFrame(out)
		if f.kind == frameHeaders || f.kind == frameData || f.kind == frameGoAway || f.kind == frameResetStream {
			n++
		}
		out = out[length:]
	}
	return n
}
