package budget

import "golang.org/x/sys/unix"

// alloc returns size zeroed bytes, mapped outside the heap when large.
func alloc(size int) []byte {
	if size < mapAbove {
		return make([]byte, size)
	}
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		// Out of mappings or address space: the heap still may have room, and
		// if it has not, its failure is the one that a person can read.
		return make([]byte, size)
	}
	// Huge pages save a page fault for every 4 KiB of a buffer's first use and
	// most TLB misses after it. Advice only: the error does not matter.
	_ = unix.Madvise(m, unix.MADV_HUGEPAGE)
	return m
}

// free undoes alloc. For heap memory Munmap fails with EINVAL and changes
// nothing (x/sys keeps the list of its own mappings); the collector has it.
func free(m []byte) {
	if len(m) >= mapAbove {
		_ = unix.Munmap(m)
	}
}
