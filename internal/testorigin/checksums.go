package testorigin

import (
	"crypto/sha1" //nolint:gosec // one of the checksums that S3 offers
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"strings"

	"github.com/minio/crc64nvme"
)

// Checksum types of S3.
const (
	fullObject = "FULL_OBJECT"
	composite  = "COMPOSITE"
)

// checksumAlgorithms are the algorithms of S3 that this origin computes.
var checksumAlgorithms = []string{"CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"}

func newChecksum(algorithm string) hash.Hash {
	switch algorithm {
	case "CRC32":
		return crc32.NewIEEE()
	case "CRC32C":
		return crc32.New(crc32.MakeTable(crc32.Castagnoli))
	case "CRC64NVME":
		return crc64nvme.New()
	case "SHA1":
		return sha1.New() //nolint:gosec // as above
	case "SHA256":
		return sha256.New()
	}
	return nil
}

// checksumHeader is the header that carries the checksum, for example
// X-Amz-Checksum-Crc32c.
func checksumHeader(algorithm string) string {
	return "X-Amz-Checksum-" + algorithm[:1] + strings.ToLower(algorithm[1:])
}

// compositeSum returns the checksum of the parts' checksums, as S3 does for
// multipart uploads.
func compositeSum(algorithm string, parts []string) (string, bool) {
	h := newChecksum(algorithm)
	for _, p := range parts {
		raw, err := base64.StdEncoding.DecodeString(p)
		if err != nil || len(raw) != h.Size() {
			return "", false
		}
		h.Write(raw)
	}
	return base64.StdEncoding.EncodeToString(h.Sum(nil)), true
}

// combineSums joins the CRCs of consecutive parts into the CRC of the whole,
// without reading the bytes again.
func combineSums(algorithm string, parts []string, sizes []int64) (string, bool) {
	width, poly := 32, uint64(crc32.IEEE)
	switch algorithm {
	case "CRC32":
	case "CRC32C":
		poly = crc32.Castagnoli
	case "CRC64NVME":
		width, poly = 64, 0x9a6c9329ac4bc9b5 // NVMe polynomial, bits reflected
	default:
		return "", false // hashes of parts cannot be combined
	}
	var sum uint64
	for i, p := range parts {
		raw, err := base64.StdEncoding.DecodeString(p)
		if err != nil || len(raw) != width/8 {
			return "", false
		}
		next := binary.BigEndian.Uint64(append(make([]byte, 8-len(raw)), raw...))
		sum = crcShift(sum, width, poly, sizes[i]) ^ next
	}
	out := binary.BigEndian.AppendUint64(nil, sum)[8-width/8:]
	return base64.StdEncoding.EncodeToString(out), true
}

// crcShift returns the contribution of A's CRC to the CRC of A followed by n
// bytes: crc times x^(8n) modulo the polynomial, by repeated squaring of the
// operator "append one zero bit". The complements before and after a CRC cancel
// out. It does not use internal/crc, so that an error there does not hide in
// the comparison of client and origin.
func crcShift(crc uint64, width int, poly uint64, n int64) uint64 {
	op := make([]uint64, width) // op[i] is the image of bit i
	op[0] = poly
	for i := 1; i < width; i++ {
		op[i] = 1 << (i - 1)
	}
	apply := func(m []uint64, v uint64) (out uint64) {
		for i := 0; v != 0; i, v = i+1, v>>1 {
			if v&1 != 0 {
				out ^= m[i]
			}
		}
		return out
	}
	square := func(m []uint64) []uint64 {
		out := make([]uint64, width)
		for i := range out {
			out[i] = apply(m, m[i])
		}
		return out
	}
	for range 3 { // one bit to one byte
		op = square(op)
	}
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			crc = apply(op, crc)
		}
		op = square(op)
	}
	return crc
}
