package crc

import "hash/crc32"

// The CRCs of this module. Their tables of powers are computed once per process.
var (
	IEEE       = NewCombiner[uint32](crc32.IEEE)            // gzip
	Castagnoli = NewCombiner[uint32](crc32.Castagnoli)      // CRC32C: S3, our frames
	NVMe       = NewCombiner[uint64](0x9a6c_9329_ac4b_c9b5) // CRC64NVME: S3
)

// CastagnoliTable is the table of CRC32C for hash/crc32.
var CastagnoliTable = crc32.MakeTable(crc32.Castagnoli)

// Combiner combines the checksums of one CRC. It is immutable, and its methods
// may be called from any number of goroutines.
type Combiner[T uint32 | uint64] struct {
	poly   T
	one    T     // the polynomial 1, the top bit of the register
	powers [64]T // powers[k] is x^(8 * 2^k)
}

// NewCombiner returns the combiner of a polynomial of T's width in reversed bit
// order, without its leading term, as hash/crc32 and hash/crc64 write it.
func NewCombiner[T uint32 | uint64](poly T) *Combiner[T] {
	c := &Combiner[T]{poly: poly, one: ^(^T(0) >> 1)}
	power := c.one >> 8 // x^8
	for k := range c.powers {
		c.powers[k] = power
		power = c.multiply(power, power)
	}
	return c
}

// Combine returns the checksum of A followed by B. It takes the checksums of A
// and of B, and the length of B in bytes.
func (c *Combiner[T]) Combine(sumA, sumB T, lenB int64) T {
	for k := 0; lenB > 0; k, lenB = k+1, lenB>>1 {
		if lenB&1 != 0 {
			sumA = c.multiply(sumA, c.powers[k])
		}
	}
	return sumA ^ sumB
}

// multiply returns a*b modulo the polynomial.
func (c *Combiner[T]) multiply(a, b T) T {
	var product T
	for bit := c.one; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		b = b>>1 ^ c.poly&-(b&1)
	}
	return product
}
