package wire

import "encoding/binary"

const (
	// defaultLifetime is what CoreDNS gives replies that no cache should keep,
	// maxLifetime the most that it gives to any, in seconds.
	defaultLifetime = 5
	maxLifetime     = 3600

	typeRRSIG = 46

	rcodeNameError = 3

	// year68 is the period after which the times in a signature repeat, in
	// seconds (RFC 4034, section 3.1.5).
	year68 = 1 << 31
)

// Lifetime returns for how many seconds an HTTP cache may keep msg, a reply of
// AppendReply, at the time now in Unix seconds (RFC 8484, section 5.1). It is
// the value that CoreDNS's server sends: the lowest TTL, at most an hour, and 5
// s for errors, referrals, and replies with a signature that is not valid now.
func Lifetime(msg []byte, now int64) uint32 {
	if len(msg) < HeaderLen {
		return defaultLifetime
	}
	counts := [3]int{}
	for i := range counts {
		counts[i] = int(binary.BigEndian.Uint16(msg[6+2*i:]))
	}
	rcode := msg[3] & rcodeMask
	off := HeaderLen
	for range binary.BigEndian.Uint16(msg[4:]) {
		off = skipName(msg, off) + questionLen
	}
	ttl, records := uint32(maxLifetime), 0
	soa, ns, do, expired := false, false, false, false
	for section, n := range counts {
		for range n {
			off = skipName(msg, off)
			if len(msg) < off+rrFixedLen {
				return defaultLifetime
			}
			rr := msg[off:]
			rrtype := binary.BigEndian.Uint16(rr)
			off += rrFixedLen + int(binary.BigEndian.Uint16(rr[8:]))
			if rrtype == typeOPT {
				do = rr[6]&0x80 != 0
				continue
			}
			records++
			ttl = min(ttl, binary.BigEndian.Uint32(rr[4:]))
			soa = soa || section == 1 && rrtype == typeSOA
			ns = ns || section == 1 && rrtype == typeNS
			if rrtype == typeRRSIG && len(rr) >= rrFixedLen+16 {
				ends, begins := binary.BigEndian.Uint32(rr[rrFixedLen+8:]), binary.BigEndian.Uint32(rr[rrFixedLen+12:])
				expired = expired || now < nearest(begins, now) || now > nearest(ends, now)
			}
		}
	}
	switch {
	case records == 0, do && expired:
		return defaultLifetime
	case rcode == rcodeNameError && counts[0] == 0, rcode == 0 && (counts[0] > 0 || soa || !ns):
		return ttl
	}
	return defaultLifetime
}

// nearest is the time that t, of 32 bits, stands for at the time now, computed
// as miekg/dns does.
func nearest(t uint32, now int64) int64 {
	return int64(t) + (int64(t)-now)/year68*year68
}

// skipName returns the offset behind the name at off, or the length of msg if
// the name does not end.
func skipName(msg []byte, off int) int {
	for off < len(msg) {
		switch c := int(msg[off]); {
		case c == 0:
			return off + 1
		case c > maxLabelLen:
			return off + 2
		default:
			off += 1 + c
		}
	}
	return len(msg)
}
