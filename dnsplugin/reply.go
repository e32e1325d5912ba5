package dnsplugin

import (
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// reply makes the message that answers r from a, with ttl in every record.
// The plugins before us (log, rewrite, loadbalance, prometheus ...) work on
// messages, so the bytes are unpacked again; nothing of the reply is shared
// with other replies, they may change it as they like.
func reply(a *wire.Answer, r *dns.Msg, ttl uint32, keepAD bool) (*dns.Msg, error) {
	m := new(dns.Msg)
	if err := m.Unpack(a.Msg()); err != nil {
		return nil, err
	}
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			rr.Header().Ttl = ttl
		}
	}
	m.Id = r.Id
	m.Opcode = r.Opcode
	m.RecursionDesired = r.RecursionDesired
	m.CheckingDisabled = r.CheckingDisabled
	m.AuthenticatedData = m.AuthenticatedData && keepAD
	// The question of this client, letter for letter.
	m.Question = append(m.Question[:0], r.Question[0])
	return m, nil
}
