package doh

import (
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// Names of the static table that replies use (RFC 7541, appendix A).
const (
	indexStatus200     = 0x80 | 8
	indexStatus        = 8
	indexCacheControl  = 24
	indexContentLength = 28
	indexContentType   = 31
	indexDate          = 33
)

// appendInt appends n with a prefix of bits, in whose byte high is set
// (RFC 7541, section 5.1).
func appendInt(out []byte, high byte, bits, n int) []byte {
	limit := 1<<bits - 1
	if n < limit {
		return append(out, high|byte(n))
	}
	out = append(out, high|byte(limit))
	for n -= limit; n >= 128; n >>= 7 {
		out = append(out, 0x80|byte(n&0x7f))
	}
	return append(out, byte(n))
}

func appendString(out []byte, s string) []byte { return append(appendInt(out, 0, 7, len(s)), s...) }

// appendIndexed appends a header field with a name of the static table. No
// dynamic table is used, so a reply needs no state of the connection.
func appendIndexed(out []byte, name int, value string) []byte {
	return appendString(appendInt(out, 0, 4, name), value)
}

// appendNumber is appendIndexed for a number behind a prefix.
func appendNumber(out []byte, name int, prefix string, n int) []byte {
	var digits [20]byte
	d := strconv.AppendInt(digits[:0], int64(n), 10)
	out = appendInt(appendInt(out, 0, 4, name), 0, 7, len(prefix)+len(d))
	return append(append(out, prefix...), d...)
}

func appendStatus(out []byte, status int) []byte {
	if status == http.StatusOK {
		return append(out, indexStatus200)
	}
	return appendNumber(out, indexStatus, "", status)
}

// appendHeader appends the fields of h, with names in lower case.
func appendHeader(out []byte, h http.Header) []byte {
	for name, values := range h {
		name = strings.ToLower(name)
		if connectionSpecific(name) {
			continue
		}
		for _, v := range values {
			out = appendString(appendString(append(out, 0), name), v)
		}
	}
	return out
}

// connectionSpecific reports whether HTTP/2 has no field of that name
// (RFC 9113, section 8.2.2).
func connectionSpecific(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return true
	}
	return false
}

// head is the header of a request.
type head struct {
	method, scheme, authority, path string

	contentType string
	length      int64 // content-length, or -1

	fields []hpack.HeaderField // all but the pseudo fields
	size   int                 // of all, as SETTINGS_MAX_HEADER_LIST_SIZE counts

	regular   bool // a field that is not a pseudo field has come
	malformed bool
}

// reset makes h ready for another request.
func (h *head) reset() {
	clear(h.fields)
	*h = head{length: -1, fields: h.fields[:0]}
}

// take adds a field.
func (h *head) take(f hpack.HeaderField) {
	if h.size += int(f.Size()); h.size > maxHeaderList {
		return
	}
	if f.Name == "" || f.Name != strings.ToLower(f.Name) || strings.ContainsAny(f.Value, "\x00\r\n") {
		h.malformed = true
		return
	}
	if f.Name[0] == ':' {
		h.takePseudo(f)
		return
	}
	h.regular = true
	switch {
	case connectionSpecific(f.Name), f.Name == "te" && f.Value != "trailers", strings.ContainsAny(f.Name, " :"):
		h.malformed = true
	case f.Name == "content-type":
		h.contentType = f.Value
	case f.Name == "content-length":
		n, err := strconv.ParseInt(f.Value, 10, 64)
		if err != nil || n < 0 || h.length >= 0 && h.length != n {
			h.malformed = true
		}
		h.length = n
	}
	h.fields = append(h.fields, f)
}

func (h *head) takePseudo(f hpack.HeaderField) {
	var to *string
	switch f.Name {
	case ":method":
		to = &h.method
	case ":scheme":
		to = &h.scheme
	case ":authority":
		to = &h.authority
	case ":path":
		to = &h.path
	}
	if to == nil || h.regular || *to != "" {
		h.malformed = true
		return
	}
	*to = f.Value
}

// wellFormed reports whether h is a whole header of a request (RFC 9113,
// section 8.3.1). No request for DNS is a CONNECT.
func (h *head) wellFormed() bool {
	return !h.malformed && h.method != "" && h.scheme != "" && strings.HasPrefix(h.path, "/")
}

// header returns the fields as net/http has them.
func (h *head) header() http.Header {
	header := make(http.Header, len(h.fields))
	for _, f := range h.fields {
		name := http.CanonicalHeaderKey(f.Name)
		header[name] = append(header[name], f.Value)
	}
	return header
}
