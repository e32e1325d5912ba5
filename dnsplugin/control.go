package dnsplugin

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/store"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// The control serves HTTP on a UNIX socket: GET /dump shows the entries of a
// name or zone, and POST /flush removes them. This file handles the requests;
// control_socket.go owns the socket.

const controlHelp = `GET /dump or POST /flush, with name=NAME, zone=ZONE or all, and type=TYPE to narrow it`

// selector selects entries.
type selector struct {
	name  []byte // in wire form and lower case
	below bool   // also the names below name
	qtype uint16 // 0 means all types
}

// parseSelector reads a query string. Its errors are written for the client.
func parseSelector(raw string) (s selector, err error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return s, fmt.Errorf("the query string can't be parsed: %w", err)
	}
	which := 0
	for key, v := range values {
		if len(v) != 1 {
			return s, fmt.Errorf("%s is given %d times: give it once", key, len(v))
		}
		switch key {
		case "name", "zone":
			which++
			s.below = key == "zone"
			if s.name, err = wireName(v[0]); err != nil {
				return s, fmt.Errorf("%s: %w", key, err)
			}
		case "all":
			which++
			s.below, s.name = true, []byte{0}
			if v[0] != "" {
				return s, fmt.Errorf("all takes no value, found %q", v[0])
			}
		case "type":
			if s.qtype, err = typeOf(v[0]); err != nil {
				return s, err
			}
		default:
			return s, fmt.Errorf("unknown parameter %q: %s", key, controlHelp)
		}
	}
	if which != 1 {
		return s, fmt.Errorf("give one of name=NAME, zone=ZONE and all, found %d of them", which)
	}
	return s, nil
}

// wireName packs a domain name, with or without the dot at its end, in lower case.
func wireName(text string) ([]byte, error) {
	if _, ok := dns.IsDomainName(text); !ok || text == "" {
		return nil, fmt.Errorf("%q is not a domain name: give for example www.example.org", text)
	}
	var buf [wire.MaxNameLen + 1]byte
	n, err := dns.PackDomainName(dns.Fqdn(text), buf[:], 0, nil, false)
	if err != nil {
		return nil, fmt.Errorf("%q is not a domain name: %w", text, err)
	}
	return sides.NameOf(wire.AppendKey(nil, buf[:n], 0, 0, false, false)), nil
}

// typeOf reads the mnemonic of a type, or TYPE with a number (RFC 3597, section 5).
func typeOf(text string) (uint16, error) {
	upper := strings.ToUpper(text)
	if t, ok := dns.StringToType[upper]; ok && t != 0 {
		return t, nil
	}
	var t uint16
	if n, err := fmt.Sscanf(upper, "TYPE%d", &t); n == 1 && err == nil && t != 0 && upper == fmt.Sprintf("TYPE%d", t) {
		return t, nil
	}
	return 0, fmt.Errorf("type %q is unknown: give for example A, AAAA or TYPE65280", text)
}

// matches reports whether s selects the entry of key.
func (s *selector) matches(key []byte) bool {
	name := sides.NameOf(key)
	if isCut(key) && (sides.Suffixes{name}).Contain(s.name) {
		return true // it answers for the selected names, of every type
	}
	if s.qtype != 0 && !isCut(key) && (key[1] != byte(s.qtype>>8) || key[2] != byte(s.qtype)) {
		return false
	}
	if s.below {
		return sides.Suffixes{s.name}.Contain(name)
	}
	return bytes.Equal(name, s.name)
}

// controlled answers one request.
func (c *Cache) controlled(w http.ResponseWriter, r *http.Request) {
	method := map[string]string{"/dump": http.MethodGet, "/flush": http.MethodPost}[r.URL.Path]
	switch {
	case method == "":
		http.Error(w, fmt.Sprintf("%s is not here: %s", r.URL.Path, controlHelp), http.StatusNotFound)
		return
	case r.Method != method:
		w.Header().Set("Allow", method)
		http.Error(w, fmt.Sprintf("%s needs %s, found %s", r.URL.Path, method, r.Method), http.StatusMethodNotAllowed)
		return
	}
	sel, err := parseSelector(r.URL.RawQuery)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if method == http.MethodPost {
		// The client may have disconnected; ignore that.
		_, _ = fmt.Fprintf(w, "flushed %d entries\n", c.flush(&sel))
		return
	}
	c.dump(w, &sel)
}

// flush removes the entries that sel selects and returns their number.
func (c *Cache) flush(sel *selector) (n int) {
	for _, s := range c.sides.Both() {
		s.Store.Range(func(key []byte, _ *store.Entry) bool {
			if sel.matches(key) && s.Store.Delete(s.Store.Hash(key), key) {
				n++
			}
			return true
		})
	}
	c.meters.Resize(c.sides.Success.Store.Len(), c.sides.Denial.Store.Len())
	// An older snapshot must not bring back the entries.
	select {
	case c.warmNow <- struct{}{}:
	default:
	}
	return n
}

// dump writes the entries that sel selects and that may still be served.
func (c *Cache) dump(w http.ResponseWriter, sel *selector) {
	n, now := 0, c.sides.Instant(c.now())
	var err error
	for kind, s := range c.sides.Both() {
		s.Store.Range(func(key []byte, e *store.Entry) bool {
			if e.Dead <= now || !sel.matches(key) {
				return true
			}
			n++
			_, err = w.Write(appendDump(nil, key[0], sides.Kind(kind), e, now))
			return err == nil
		})
		if err != nil {
			return // the client has disconnected
		}
	}
	_, _ = fmt.Fprintf(w, "; %d entries\n", n)
}

// appendDump appends e to b: a comment with the state of the entry, and its
// records as in a zone file.
func appendDump(b []byte, bits byte, kind sides.Kind, e *store.Entry, now store.Instant) []byte {
	a := e.Answer()
	var m dns.Msg
	if err := m.Unpack(a.Msg()); err != nil { // unreachable: checked by pack
		return fmt.Appendf(b, "; an entry that cannot be read: %v\n", err)
	}
	q := m.Question[0]
	b = fmt.Appendf(b, "; %s %s %s: %s, %s", q.Name, dns.Class(q.Qclass), dns.Type(q.Qtype), kind, dns.RcodeToString[m.Rcode])
	for _, bit := range []struct {
		is   bool
		text string
	}{{q.Qtype == cutType, ", for all types and names below (nxcut)"}, {bits&1 != 0, ", DO"}, {bits&2 != 0, ", CD"}, {bits&store.Variant != 0, ", the last answer with data"}} {
		if bit.is {
			b = append(b, bit.text...)
		}
	}
	left := e.Left(now)
	if left > 0 {
		b = fmt.Appendf(b, ", %d of %d s left", left, e.TTL)
	} else {
		b = fmt.Appendf(b, ", stale for %d s, may be served for %d more", -left, int64(time.Duration(e.Dead-now)/time.Second))
	}
	if w := e.Wildcard(); w != "" {
		b = fmt.Appendf(b, ", by %s", w)
	}
	options, _ := edeOptions(e.EDE())
	for _, o := range options {
		b = fmt.Appendf(b, ", EDE %q", o)
	}
	b = fmt.Appendf(b, ", %d bytes\n", len(a.Msg()))
	for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		if len(section) > 0 && i > 0 {
			b = fmt.Appendf(b, "; %s\n", [...]string{1: "authority", 2: "additional"}[i])
		}
		for _, rr := range section {
			rr.Header().Ttl = uint32(max(0, left))
			b = append(append(b, rr.String()...), '\n')
		}
	}
	return b
}
