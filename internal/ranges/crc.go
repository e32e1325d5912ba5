//penstock:pure

package ranges

import (
	"hash/crc32"
	"math"

	"github.com/minio/crc64nvme"

	"github.com/penstock/penstock/internal/crc"
)

// update continues the checksum sum with p. The zero value is the checksum of
// no bytes, for both algorithms.
func (a ChecksumAlgorithm) update(sum uint64, p []byte) uint64 {
	switch a {
	case CRC32C:
		return uint64(crc32.Update(uint32(sum&math.MaxUint32), crc.CastagnoliTable, p))
	case CRC64NVME:
		return crc64nvme.Update(sum, p)
	default:
		return 0
	}
}

// combine returns the checksum of A followed by B. It takes the checksums of A
// and of B, and the length of B in bytes.
func (a ChecksumAlgorithm) combine(sumA, sumB uint64, lenB int64) uint64 {
	switch a {
	case CRC32C:
		return uint64(crc.Castagnoli.Combine(uint32(sumA&math.MaxUint32), uint32(sumB&math.MaxUint32), lenB))
	case CRC64NVME:
		return crc.NVMe.Combine(sumA, sumB, lenB)
	default:
		return 0
	}
}
