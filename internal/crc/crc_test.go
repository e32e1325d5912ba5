package crc

import (
	"hash/crc32"
	"hash/crc64"
	"math/rand/v2"
	"testing"

	"github.com/minio/crc64nvme"
	"pgregory.net/rapid"
)

// summer is a CRC that the standard library, or crc64nvme, computes.
type summer[T uint32 | uint64] struct {
	name    string
	combine *Combiner[T]
	sum     func([]byte) T
}

var summers32 = []summer[uint32]{
	{"IEEE", IEEE, crc32.ChecksumIEEE},
	{"Castagnoli", Castagnoli, func(p []byte) uint32 { return crc32.Checksum(p, CastagnoliTable) }},
	{"Koopman", NewCombiner[uint32](crc32.Koopman), func(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Koopman)) }},
}

var summers64 = []summer[uint64]{
	{"NVMe", NVMe, crc64nvme.Checksum},
	{"NVMe of hash/crc64", NVMe, func(p []byte) uint64 { return crc64.Checksum(p, crc64.MakeTable(0x9a6c9329ac4bc9b5)) }},
	{"ISO", NewCombiner[uint64](crc64.ISO), func(p []byte) uint64 { return crc64.Checksum(p, crc64.MakeTable(crc64.ISO)) }},
	{"ECMA", NewCombiner[uint64](crc64.ECMA), func(p []byte) uint64 { return crc64.Checksum(p, crc64.MakeTable(crc64.ECMA)) }},
}

func TestCombineTwoPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "data")
		cut := rapid.IntRange(0, len(p)).Draw(t, "cut")
		checkPieces(t, summers32, p, cut)
		checkPieces(t, summers64, p, cut)
	})
}

// Lengths far above 4 KiB use the higher powers.
func TestCombineLongPieces(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	p := make([]byte, 1<<20)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	for range 10 {
		cut := r.IntN(len(p) + 1)
		checkPieces(t, summers32, p, cut)
		checkPieces(t, summers64, p, cut)
	}
}

func TestCombineManyPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 100), 0, 20).Draw(t, "pieces")
		var whole []byte
		var sum32 uint32
		var sum64 uint64
		for _, p := range pieces {
			whole = append(whole, p...)
			sum32 = Castagnoli.Combine(sum32, crc32.Checksum(p, CastagnoliTable), int64(len(p)))
			sum64 = NVMe.Combine(sum64, crc64nvme.Checksum(p), int64(len(p)))
		}
		if want := crc32.Checksum(whole, CastagnoliTable); sum32 != want {
			t.Fatalf("CRC32C %08x, want %08x", sum32, want)
		}
		if want := crc64nvme.Checksum(whole); sum64 != want {
			t.Fatalf("CRC64NVME %016x, want %016x", sum64, want)
		}
	})
}

// A piece of zeros too long to be summed in a test is combined from its halves.
func TestCombineDoublesUpTo2To62(t *testing.T) {
	sum, n := crc64nvme.Checksum(make([]byte, 1)), int64(1)
	one := sum
	for range 62 {
		sum, n = NVMe.Combine(sum, sum, n), n*2
	}
	// The checksum of the same 2^62 zeros, split into one zero and 2^62-1 zeros.
	rest, length := one, int64(1)
	for range 61 {
		rest = NVMe.Combine(rest, rest, length)
		rest = NVMe.Combine(rest, one, 1)
		length = 2*length + 1
	}
	if got := NVMe.Combine(one, rest, length); length != n-1 || got != sum {
		t.Errorf("%016x of %d bytes, want %016x of %d", got, length+1, sum, n)
	}
}

func checkPieces[T uint32 | uint64](t rapid.TB, summers []summer[T], p []byte, cut int) {
	for _, s := range summers {
		if got, want := s.combine.Combine(s.sum(p[:cut]), s.sum(p[cut:]), int64(len(p)-cut)), s.sum(p); got != want {
			t.Fatalf("%s of %d and %d bytes: %x, want %x", s.name, cut, len(p)-cut, got, want)
		}
	}
}

func TestCombineAllocatesNothing(t *testing.T) {
	var sum uint32
	if n := testing.AllocsPerRun(100, func() { sum = IEEE.Combine(sum, 7, 256<<10) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
