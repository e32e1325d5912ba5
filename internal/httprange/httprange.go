package httprange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/ranges"
)

// Prepare signs or authorizes a request just before it is sent.
type Prepare func(ctx context.Context, req *http.Request) error

// Getter makes ranged GETs. It is safe for concurrent use; its fields must not
// change after the first use.
type Getter struct {
	// Client sends the requests.
	Client *http.Client
	// FreshClient sends the requests that must not reuse a connection. Nil means
	// Client.
	FreshClient *http.Client
	// Check, if not nil, checks every answer before its status is checked. Open
	// returns an error of Check unchanged. Check must not read the body of a 200
	// or 206.
	Check func(resp *http.Response) error
	// Pin returns the validator in an answer's header. Nil means [Validator].
	Pin func(h http.Header) string
	// Unconditional omits If-Match and If-Unmodified-Since, for servers that can't
	// compare their own validators. The answers' validators are still compared.
	Unconditional bool
	// Sum, if not nil, returns the checksum of the whole object in an answer's
	// header.
	Sum func(h http.Header) ranges.Checksum
}

// Validator returns the pin of an answer: its ETag, or else its Last-Modified. With
// a pin of one of these kinds it returns that kind only, or "" if the answer
// doesn't have it, because validators of different kinds can't be compared.
func Validator(h http.Header, pin string) string {
	if date, ok := strings.CutPrefix(pin, ranges.PinModified); ok {
		switch got := first(h, "Last-Modified"); {
		case got == "":
			return ""
		case sameDate(date, got):
			return pin
		default:
			return ranges.PinModified + got
		}
	}
	tag := first(h, "Etag")
	switch {
	case tag == "" && pin == "":
		if date := first(h, "Last-Modified"); date != "" {
			return ranges.PinModified + date
		}
		return ""
	case tag == "":
		return ""
	case len(pin) == len(ranges.PinETag)+len(tag) && pin[len(ranges.PinETag):] == tag:
		return pin // the usual case allocates nothing
	}
	return ranges.PinETag + tag
}

// first is http.Header.Get for a name in canonical form.
func first(h http.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// sameDate compares two HTTP dates, which have three forms (RFC 9110 section 5.6.7).
func sameDate(a, b string) bool {
	if a == b {
		return true
	}
	ta, errA := http.ParseTime(a)
	tb, errB := http.ParseTime(b)
	return errA == nil && errB == nil && ta.Equal(tb)
}

// Condition returns the header line that makes a server refuse other versions than
// pin, or "" for pins that it can't check. If-Match needs a strong tag with its
// quotes (RFC 9110 section 13.1.1); some servers never match another spelling.
func Condition(pin string) (name, value string) {
	if tag, ok := strings.CutPrefix(pin, ranges.PinETag); ok {
		if len(tag) > 2 && tag[0] == '"' && tag[len(tag)-1] == '"' {
			return "If-Match", tag
		}
		return "", ""
	}
	if date, ok := strings.CutPrefix(pin, ranges.PinModified); ok {
		return "If-Unmodified-Since", date
	}
	return "", ""
}

// Open sends one GET for the range of req to rawURL. A pin of the kinds that
// Validator makes is sent as If-Match or If-Unmodified-Since.
func (g *Getter) Open(ctx context.Context, rawURL string, req ranges.Request, prepare Prepare) (io.ReadCloser, ranges.Info, error) {
	none := ranges.Info{Size: -1}
	hr, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return nil, none, &ranges.Fault{Kind: ranges.Permanent, Err: fmt.Errorf("bad URL %q: %w", RedactURL(rawURL), unwrapURL(err))}
	}
	hr.Header["Range"] = []string{formatRange(req.Off, req.Len)}
	// Without this header net/http requests gzip and inflates the answer, which
	// changes the offsets.
	hr.Header["Accept-Encoding"] = []string{"identity"}
	if name, value := Condition(req.Pin); name != "" && !g.Unconditional {
		hr.Header[name] = []string{value}
	}
	if prepare != nil {
		if err := prepare(ctx, hr); err != nil {
			return nil, none, err
		}
	}
	client := g.Client
	if req.Fresh && g.FreshClient != nil {
		client = g.FreshClient
	}
	resp, err := client.Do(hr)
	if err != nil {
		return nil, none, &ranges.Fault{Kind: ranges.Retryable, Fresh: true, Err: fmt.Errorf("GET %s: %w", RedactURL(rawURL), unwrapURL(err))}
	}
	info, err := g.check(resp, req)
	if err != nil {
		// A short error body is read to its end, so that the connection can be reused.
		_, _ = io.CopyN(io.Discard, resp.Body, drainMax)
		_ = resp.Body.Close()
		return nil, info, err
	}
	return &body{rc: resp.Body, left: info.Len}, info, nil
}

// drainMax bounds the bytes that are read of an error's body. It is more than any
// error message, and reading them costs less than a new connection.
const drainMax = 16 << 10

func formatRange(off, n int64) string {
	b := make([]byte, 0, 48)
	b = append(b, "bytes="...)
	b = strconv.AppendInt(b, off, 10)
	b = append(b, '-')
	b = strconv.AppendInt(b, off+n-1, 10)
	return string(b)
}

// check compares an answer's status and header with the request.
func (g *Getter) check(resp *http.Response, req ranges.Request) (ranges.Info, error) {
	info := ranges.Info{Size: -1}
	if g.Check != nil {
		if err := g.Check(resp); err != nil {
			return info, err
		}
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		return g.partial(resp, req)
	case http.StatusOK:
		return g.whole(resp, req)
	case http.StatusRequestedRangeNotSatisfiable:
		// The size is optional (RFC 9110 section 14.4: "bytes */N").
		info.Size = unsatisfiedSize(resp.Header.Get("Content-Range"))
		return info, fault(ranges.OutOfRange, resp, fmt.Errorf("bytes %d-%d are beyond the end", req.Off, req.Off+req.Len-1))
	}
	return info, StatusFault(resp, time.Now())
}

// partial checks a 206.
func (g *Getter) partial(resp *http.Response, req ranges.Request) (ranges.Info, error) {
	info := ranges.Info{Size: -1}
	if err := identity(resp); err != nil {
		return info, err
	}
	if ct := resp.Header.Get("Content-Type"); strings.HasPrefix(ct, "multipart/byteranges") {
		return info, fault(ranges.Permanent, resp, errors.New("answer to one range came as multipart/byteranges"))
	}
	cr := resp.Header.Get("Content-Range")
	first, last, size, err := ParseContentRange(cr)
	if err != nil {
		return info, fault(ranges.Retryable, resp, err)
	}
	n := last - first + 1
	if resp.ContentLength >= 0 && resp.ContentLength != n {
		return info, fault(ranges.Retryable, resp, fmt.Errorf("Content-Length %d does not fit Content-Range %q", resp.ContentLength, cr))
	}
	// A server may send fewer bytes than requested (RFC 9110 section 15.3.7).
	if first != req.Off || n > req.Len {
		return info, fault(ranges.Retryable, resp, fmt.Errorf("asked for bytes %d-%d, got Content-Range %q", req.Off, req.Off+req.Len-1, cr))
	}
	info.Size, info.Off, info.Len = size, first, n
	g.describe(resp.Header, req, &info)
	return info, nil
}

// whole checks a 200.
func (g *Getter) whole(resp *http.Response, req ranges.Request) (ranges.Info, error) {
	info := ranges.Info{Size: -1}
	if err := identity(resp); err != nil {
		return info, err
	}
	// Without a length (-1) the framing marks the end of the body. The engine
	// accepts that if it knows the size.
	info.Size, info.Len = resp.ContentLength, resp.ContentLength
	g.describe(resp.Header, req, &info)
	return info, nil
}

// identity refuses bodies that the transport has inflated. It ignores a
// Content-Encoding header, because an S3 object may be stored with one. A proxy
// that compresses the body changes its length, which the callers check.
func identity(resp *http.Response) error {
	if resp.Uncompressed {
		return fault(ranges.Permanent, resp, errors.New("the transport has inflated the answer, which changes its offsets"))
	}
	return nil
}

// describe adds pin and checksum to info.
func (g *Getter) describe(h http.Header, req ranges.Request, info *ranges.Info) {
	if g.Pin != nil {
		info.Pin = g.Pin(h)
	} else {
		info.Pin = Validator(h, req.Pin)
	}
	if info.Pin == "" && strings.HasPrefix(req.Pin, ranges.PinETag) {
		// The pin may come from a listing, and this answer has no ETag. If the
		// server hasn't compared the pin either, the date has to prove that the
		// answers of one reader belong together.
		if name, _ := Condition(req.Pin); name == "" || g.Unconditional {
			if date := first(h, "Last-Modified"); date != "" {
				info.StandIn = ranges.PinModified + date
			}
		}
	}
	if g.Sum != nil {
		info.Sum = g.Sum(h)
	}
}

// body yields exactly its length. If the server sends fewer bytes, it ends in
// io.ErrUnexpectedEOF, not in io.EOF.
type body struct {
	rc   io.ReadCloser
	left int64 // bytes still to come; -1 if the server sent no length
}

func (b *body) Read(p []byte) (int, error) {
	if b.left < 0 {
		return b.rc.Read(p)
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.rc.Read(p)
	b.left -= int64(n)
	switch {
	case b.left == 0 && (err == nil || errors.Is(err, io.EOF)):
		return n, io.EOF
	case errors.Is(err, io.EOF):
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

func (b *body) Close() error { return b.rc.Close() }
