package crc_test

import (
	"fmt"
	"hash/crc32"

	"github.com/penstock/penstock/internal/crc"
)

func ExampleCombiner_Combine() {
	hello, world := []byte("hello, "), []byte("world")
	sum := crc.IEEE.Combine(crc32.ChecksumIEEE(hello), crc32.ChecksumIEEE(world), int64(len(world)))
	fmt.Println(sum == crc32.ChecksumIEEE([]byte("hello, world")))
	// Output: true
}
