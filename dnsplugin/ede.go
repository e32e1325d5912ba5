package dnsplugin

import (
	"encoding/binary"

	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/store"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// Extended errors (EDE, RFC 8914) are the only part of an OPT that is about the
// answer and not about one hop: they say why a name cannot be resolved or is
// filtered. They are stored behind the answer's bytes as options of an OPT, and
// sent to every client whose query has an OPT.

// edeOf returns the extended errors of m as packed options, or nil if there are
// none. If an entry cannot hold a text, it keeps only the error, because the
// text is optional.
func edeOf(m *dns.Msg) []byte {
	opt := m.IsEdns0()
	if opt == nil {
		return nil
	}
	var b []byte
	for _, o := range opt.Option {
		e, ok := o.(*dns.EDNS0_EDE)
		if !ok {
			continue
		}
		text := e.ExtraText
		if len(b)+sides.EDEHead+len(text) > store.MaxEDE {
			text = ""
		}
		if len(b)+sides.EDEHead+len(text) > store.MaxEDE {
			break
		}
		b = binary.BigEndian.AppendUint16(b, dns.EDNS0EDE)
		b = binary.BigEndian.AppendUint16(b, uint16(2+len(text)))
		b = binary.BigEndian.AppendUint16(b, e.InfoCode)
		b = append(b, text...)
	}
	return b
}

// edeOptions unpacks the options of edeOf. It is not ok for other bytes.
func edeOptions(b []byte) (options []dns.EDNS0, ok bool) {
	for len(b) > 0 {
		if len(b) < sides.EDEHead || binary.BigEndian.Uint16(b) != dns.EDNS0EDE {
			return nil, false
		}
		n := 4 + int(binary.BigEndian.Uint16(b[2:]))
		if n < sides.EDEHead || len(b) < n {
			return nil, false
		}
		options = append(options, &dns.EDNS0_EDE{InfoCode: binary.BigEndian.Uint16(b[4:]), ExtraText: string(b[sides.EDEHead:n])})
		b = b[n:]
	}
	return options, true
}

// addEDE adds to m, the reply to r over w, an OPT with the extended errors of
// ede; the server sets its other fields. It leaves out the texts, and then the
// errors, if records would not fit otherwise (RFC 8914, section 3).
func addEDE(w dns.ResponseWriter, m, r *dns.Msg, ede []byte) {
	if len(ede) == 0 || r.IsEdns0() == nil {
		return
	}
	options, ok := edeOptions(ede)
	if !ok {
		return // unreachable: nothing else is stored
	}
	if w != nil { // a refresh has no client yet
		state := request.Request{W: w, Req: r}
		if options = fitting(options, state.Size()-sizeOf(m)-wire.OPTLen); len(options) == 0 {
			return
		}
	}
	m.Extra = append(m.Extra, &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}, Option: options})
}

// sizeOf returns the length of m with compression, which the server applies if
// the client accepts only short messages.
func sizeOf(m *dns.Msg) int {
	compress := m.Compress
	m.Compress = true
	n := m.Len()
	m.Compress = compress
	return n
}

// fitting returns the options that fit into room bytes: all of them, all of them
// without their texts, or none.
func fitting(options []dns.EDNS0, room int) []dns.EDNS0 {
	texts := 0
	for _, o := range options {
		if e, ok := o.(*dns.EDNS0_EDE); ok {
			texts += len(e.ExtraText)
		}
	}
	bare := sides.EDEHead * len(options)
	switch {
	case bare+texts <= room:
		return options
	case bare > room:
		return nil
	}
	for _, o := range options {
		if e, ok := o.(*dns.EDNS0_EDE); ok {
			e.ExtraText = ""
		}
	}
	return options
}
