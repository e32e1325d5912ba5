package main

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// sourceText returns so many bytes of the source code of the Go tree, repeated
// if it is too short.
func sourceText(size int) ([]byte, error) {
	text := make([]byte, 0, size)
	errFull := errors.New("enough")
	for len(text) < size {
		before := len(text)
		err := filepath.WalkDir(filepath.Join(runtime.GOROOT(), "src"), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			p, err := os.ReadFile(path)
			if text = append(text, p[:min(len(p), size-len(text))]...); err == nil && len(text) == size {
				return errFull
			}
			return err
		})
		switch {
		case errors.Is(err, errFull):
		case err != nil:
			return nil, err
		case len(text) == before:
			return nil, errors.New("the Go tree has no source code")
		}
	}
	return text, nil
}

// outputOf returns the size of a layer that the standard library decompresses.
func outputOf(layer string) (int64, error) {
	f, err := os.Open(layer)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return 0, err
	}
	return io.Copy(io.Discard, z)
}

// oneBlock writes a member with a single DEFLATE block: literals in the fixed
// code.
func oneBlock(w io.Writer, data []byte) error {
	out := bufio.NewWriter(w)
	if _, err := out.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}); err != nil {
		return err
	}
	var bb uint64
	var nb uint
	put := func(v uint64, n uint) error {
		bb |= v << nb
		for nb += n; nb >= 8; nb -= 8 {
			if err := out.WriteByte(byte(bb)); err != nil { //nolint:gosec // G115: the low byte
				return err
			}
			bb >>= 8
		}
		return nil
	}
	err := put(3, 3) // the last block, of the fixed code
	for _, c := range data {
		v, n := uint64(c)+0x30, uint(8)
		if c >= 144 {
			v, n = uint64(c)-144+0x190, 9
		}
		var turned uint64 // codes are stored highest bit first
		for i := range n {
			turned |= v >> i & 1 << (n - 1 - i)
		}
		err = errors.Join(err, put(turned, n))
	}
	err = errors.Join(err, put(0, 7), put(0, 7)) // the end of the block, and padding to a byte
	trailer := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(data))
	trailer = binary.LittleEndian.AppendUint32(trailer, uint32(len(data))) //nolint:gosec // G115: modulo 2^32 is what the format says
	_, werr := out.Write(trailer)
	return errors.Join(err, werr, out.Flush())
}
