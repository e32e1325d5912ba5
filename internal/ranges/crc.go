package ranges

import (
	"hash/crc32"
	"math"

	"github.com/minio/crc64nvme"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// update continues the checksum sum with p. The zero value is the checksum of
// no bytes, for both algorithms.
func (a ChecksumAlgorithm) update(sum uint64, p []byte) uint64 {
	switch a {
	case CRC32C:
		return uint64(crc32.Update(uint32(sum&math.MaxUint32), castagnoli, p))
	case CRC64NVME:
		return crc64nvme.Update(sum, p)
	default:
		return 0
	}
}

// combine returns the checksum of A followed by B from those of A and B and
// the length of B in bytes.
//
// A CRC is the remainder of the message as a polynomial over GF(2); appending
// n bytes multiplies what came before by x^(8n). The conditioning (start and
// end complemented) cancels out, as in zlib's crc32_combine.
func (a ChecksumAlgorithm) combine(sumA, sumB uint64, lenB int64) uint64 {
	switch a {
	case CRC32C:
		return crc32cField.shift(sumA, lenB) ^ sumB
	case CRC64NVME:
		return crc64nvmeField.shift(sumA, lenB) ^ sumB
	default:
		return 0
	}
}

// field does polynomial arithmetic modulo a reflected CRC polynomial.
type field struct {
	poly uint64     // reflected, without the leading term
	one  uint64     // the polynomial 1: the top bit of the register
	pow  [64]uint64 // pow[k] = x^(2^k)
}

var (
	crc32cField    = newField(0x82f63b78, 32)
	crc64nvmeField = newField(0x9a6c9329ac4bc9b5, 64)
)

func newField(poly uint64, width int) *field {
	f := &field{poly: poly, one: 1 << (width - 1)}
	f.pow[0] = f.one >> 1 // x
	for k := 1; k < len(f.pow); k++ {
		f.pow[k] = f.mul(f.pow[k-1], f.pow[k-1])
	}
	return f
}

// mul returns a*b modulo the polynomial.
func (f *field) mul(a, b uint64) uint64 {
	var p uint64
	for m := f.one; m != 0 && a != 0; m >>= 1 {
		if a&m != 0 {
			p ^= b
			a &^= m
		}
		if b&1 != 0 {
			b = b>>1 ^ f.poly
		} else {
			b >>= 1
		}
	}
	return p
}

// shift returns sum * x^(8n).
func (f *field) shift(sum uint64, n int64) uint64 {
	for k, bits := 3, n; bits > 0; k, bits = k+1, bits>>1 {
		if bits&1 != 0 {
			sum = f.mul(f.pow[k], sum)
		}
	}
	return sum
}
