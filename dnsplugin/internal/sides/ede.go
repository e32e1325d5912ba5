package sides

import (
	"encoding/binary"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/store"
)

// EDEHead is the length of an EDE without its text: code and length of the
// option, and the error.
const EDEHead = 4 + 2

// MaxStaleEDE is the most that AppendStale appends, in bytes.
const MaxStaleEDE = EDEHead + store.MaxEDE

// AppendStale appends the extended errors of a stale answer to buf, which must
// be empty: an error that says that it is stale, and ede, the errors that it was
// stored with. If ede already contains the former, AppendStale appends only ede.
func AppendStale(buf, ede []byte, rcode int) []byte {
	code := dns.ExtendedErrorCodeStaleAnswer
	if rcode == dns.RcodeNameError {
		code = dns.ExtendedErrorCodeStaleNXDOMAINAnswer
	}
	for rest := ede; len(rest) >= EDEHead; rest = rest[4+int(binary.BigEndian.Uint16(rest[2:])):] {
		if binary.BigEndian.Uint16(rest[4:]) == code {
			return append(buf, ede...)
		}
	}
	buf = binary.BigEndian.AppendUint16(buf, dns.EDNS0EDE)
	buf = binary.BigEndian.AppendUint16(buf, 2)
	buf = binary.BigEndian.AppendUint16(buf, code)
	return append(buf, ede...)
}
