package doh

import (
	"encoding/base64"
	"net/http"
	"strings"
)

const (
	// Path and mediaType are the ones that CoreDNS serves.
	queryPath = "/dns-query"
	mediaType = "application/dns-message"

	// maxQuery is the longest query that is answered without ServeHTTP. Its
	// form in a GET fits in the buffer of a session.
	maxQuery = 512
)

// query returns the DNS message of a request of the plain forms of RFC 8484:
// a POST with the media type of DNS, or a GET with the parameter dns alone. ok
// is false for all others. A GET is decoded into buf.
func (h *head) query(body, buf []byte) (query []byte, ok bool) {
	switch h.method {
	case http.MethodPost:
		if h.path == queryPath && h.contentType == mediaType {
			return body, len(body) <= maxQuery
		}
	case http.MethodGet:
		text, found := strings.CutPrefix(h.path, queryPath+"?dns=")
		if !found || base64.RawURLEncoding.DecodedLen(len(text)) > min(len(buf), maxQuery) || strings.ContainsAny(text, "\r\n") {
			return nil, false
		}
		n, err := base64.RawURLEncoding.Decode(buf, []byte(text))
		return buf[:n], err == nil
	}
	return nil, false
}
