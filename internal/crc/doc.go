// Package crc combines checksums of consecutive pieces into the checksum of the
// whole, without reading the bytes again.
//
//	sum := crc.Castagnoli.Combine(sumOfA, sumOfB, int64(len(b)))
//
// A CRC is the remainder of a message as a polynomial over GF(2). Appending n
// bytes multiplies the remainder of the earlier bytes by x^(8n). The complement
// that a CRC takes before and after its bytes cancels out, so a combination
// needs the two published checksums and the length of the second piece only.
//
// The sums themselves come from hash/crc32, hash/crc64 and crc64nvme, which use
// the CPU's instructions.
package crc
