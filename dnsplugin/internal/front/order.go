package front

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// The plugin loadbalance sorts each section: first aliases, then other records,
// then addresses in random order, then MX in random order. This file only moves
// addresses, and only where no compressed name breaks. If all addresses of a
// section have the same owner and type, it swaps their data. If all their owners
// are compression pointers, no name points into the records, and it swaps whole
// records.

// Random is a source of random numbers for one goroutine (xorshift64*). The
// numbers only spread load, so they need not be unpredictable.
type Random uint64

// below returns a number from 0 to n-1. n is a count of records, so the bias is
// below 2^-48.
func (r *Random) below(n int) int {
	x := uint64(*r)
	x ^= x >> 12
	x ^= x << 25
	x ^= x >> 27
	*r = Random(x)
	hi, _ := bits.Mul64(x*0x2545f4914f6cdd1d, uint64(n))
	return int(hi)
}

// Arrange puts the addresses in reply, which was made from a, into random order.
// It returns false and does not change reply if loadbalance would also have moved
// other records.
func Arrange(a *wire.Answer, reply []byte, rnd *Random) bool {
	if a.Records() <= 1 || a.Rcode() != dns.RcodeSuccess {
		return true
	}
	// Examine all sections before moving any record.
	var runs [3]addressRun
	b, i := a.Msg(), 0
	start := wire.HeaderLen + len(a.Question())
	for s, at := range [...]int{6, 8, 10} { // offsets of the counts of the sections
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

// addressRun is a sequence of consecutive address records.
type addressRun struct {
	begin, end int // of the records in the message
	n          int

	first, stride, size int  // of the swapped data: offset of the first, distance between two, length
	mixed               bool // the records differ in length, so they are copied
}

const (
	// pointerLen is the length of a compression pointer.
	pointerLen = 2
	// addressHead is the length of a record with such an owner up to its data.
	addressHead = pointerLen + 10
	// maxMixed bounds the number of addresses in a section if their lengths
	// differ. The replies of the fast path over UDP cannot hold as many.
	maxMixed = fastpath.MaxPacket / (addressHead + 4)
)

// addresses examines the n records of a from record i on, which begins at offset
// start. It returns the run of addresses among them and the end offset of the
// records. It is not ok if records other than addresses would have to move.
func addresses(a *wire.Answer, i, n, start int) (r addressRun, end int, ok bool) {
	b := a.Msg()
	class, mx := 0, 0
	var owner []byte          // of the first address, with its type and class
	alike, bare := true, true // all owners are equal; all are pointers
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
		r.first, r.size = r.begin, r.stride // whole records
	}
	return r, start, true
}

// shuffle puts the addresses into random order (Fisher and Yates).
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

// shuffleMixed is shuffle for records of different lengths. It uses a copy.
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

// recordLen returns the length of the record at the start of b, whose owner is a
// compression pointer.
func recordLen(b []byte) int {
	return addressHead + int(binary.BigEndian.Uint16(b[addressHead-2:]))
}
