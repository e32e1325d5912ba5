package front

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// The order of records as the plugin loadbalance makes it: in each section
// aliases come first, then other records, then addresses and then MX, the
// last two at random. Only the addresses are moved here, and only where that
// changes no name: as long as all of a section have the same owner and type it
// is their data that changes places; if their owners are mere pointers, no
// name can lead into one of them, and they change places whole.

// Random is a source of random numbers for one goroutine (xorshift64*). They
// spread load and need not be secret.
type Random uint64

// below returns a number from 0 to n-1; n is a count of records, so the bias
// of 2^-48 is nothing.
func (r *Random) below(n int) int {
	x := uint64(*r)
	x ^= x >> 12
	x ^= x << 25
	x ^= x >> 27
	*r = Random(x)
	hi, _ := bits.Mul64(x*0x2545f4914f6cdd1d, uint64(n))
	return int(hi)
}

// Arrange puts the addresses in reply, which was made from a, into a random
// order. It returns false, and leaves reply alone, if loadbalance would have
// moved records in another way.
func Arrange(a *wire.Answer, reply []byte, rnd *Random) bool {
	if a.Records() <= 1 || a.Rcode() != dns.RcodeSuccess {
		return true
	}
	// All sections are looked at before anything is moved.
	var runs [3]addressRun
	b, i := a.Msg(), 0
	start := wire.HeaderLen + len(a.Question())
	for s, at := range [...]int{6, 8, 10} { // the counts of the sections
		n := int(binary.BigEndian.Uint16(b[at:]))
		var ok bool
		if runs[s], start, ok = addresses(a, i, n, start); !ok {
			return false
		}
		i += n
	}
	for _, r := range runs {
		r.shuffle(reply, rnd)
	}
	return true
}

// addressRun is a number of addresses that follow one another.
type addressRun struct {
	begin, end int // of the records in the message
	n          int

	first, stride, size int  // of the data that changes places: where it starts, from one to the next, its length
	mixed               bool // the records differ in length, and so are copied
}

const (
	// pointerLen is the length of an owner that is a compression pointer.
	pointerLen = 2
	// addressHead is what such a record has before its data.
	addressHead = pointerLen + 10
	// maxMixed bounds the addresses of different length in a section: more
	// than fit into the replies that go out from here over UDP.
	maxMixed = fastpath.MaxPacket / (addressHead + 4)
)

// addresses looks at the n records of a from record i on, which starts at
// start, and returns the run of addresses among them and where they end. It is
// not ok if more than the order of addresses would have to change.
func addresses(a *wire.Answer, i, n, start int) (r addressRun, end int, ok bool) {
	b := a.Msg()
	class, mx := 0, 0
	var owner []byte          // of the first address, with its type and class
	alike, bare := true, true // the owners are the same; they are pointers
	for ; n > 0; n-- {
		ttlAt := a.TTLOffset(i)
		data := ttlAt + 6
		length := int(binary.BigEndian.Uint16(b[ttlAt+4:]))
		next := 1
		switch binary.BigEndian.Uint16(b[ttlAt-4:]) {
		case dns.TypeCNAME:
			next = 0
		case dns.TypeA, dns.TypeAAAA:
			next = 2
			if r.n == 0 {
				owner = b[start:ttlAt]
				r = addressRun{begin: start, first: data, stride: data - start + length, size: length}
			}
			alike = alike && length == r.size && bytes.Equal(owner, b[start:ttlAt])
			bare = bare && data-start == addressHead
			r.mixed = r.mixed || length != r.size
			r.n++
			r.end = data + length
		case dns.TypeMX:
			next = 3
			mx++
		}
		if next < class || mx > 1 {
			return r, 0, false
		}
		class, start, i = next, data+length, i+1
	}
	switch {
	case alike:
		r.mixed = false
	case !bare || r.n > maxMixed || r.end-r.begin > fastpath.MaxPacket:
		return r, 0, false
	case !r.mixed:
		r.first, r.size = r.begin, r.stride // the owners too
	}
	return r, start, true
}

// shuffle moves the addresses of the run (Fisher and Yates).
func (r addressRun) shuffle(msg []byte, rnd *Random) {
	if r.mixed {
		r.shuffleMixed(msg, rnd)
		return
	}
	for left := r.n; left > 1; left-- {
		j := rnd.below(left)
		if j == left-1 {
			continue
		}
		x, y := msg[r.first+j*r.stride:][:r.size], msg[r.first+(left-1)*r.stride:][:r.size]
		for i := range x {
			x[i], y[i] = y[i], x[i]
		}
	}
}

// shuffleMixed does it for records of different length, through a copy.
func (r addressRun) shuffleMixed(msg []byte, rnd *Random) {
	var old [fastpath.MaxPacket]byte
	records := old[:copy(old[:], msg[r.begin:r.end])]
	var starts [maxMixed]uint16
	for i, at := 0, 0; i < r.n; i++ {
		starts[i] = uint16(at)
		at += recordLen(records[at:])
	}
	to := r.begin
	for left := r.n; left > 0; left-- {
		j := rnd.below(left)
		record := records[starts[j]:]
		to += copy(msg[to:], record[:recordLen(record)])
		starts[j] = starts[left-1]
	}
}

// recordLen is the length of the record that b starts with, whose owner is a pointer.
func recordLen(b []byte) int {
	return addressHead + int(binary.BigEndian.Uint16(b[addressHead-2:]))
}
