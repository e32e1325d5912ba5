package budget

import "golang.org/x/sys/unix"

// alloc returns size zeroed bytes, mapped outside the heap if they are many.
func alloc(size int) []byte {
	if size < mapAbove {
		return make([]byte, size)
	}
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		// The process is out of mappings or address space. The heap may still have
		// room; if it has none, the runtime's message says so.
		return make([]byte, size)
	}
	// Huge pages save a page fault for every 4 KiB of a buffer's first use and most
	// TLB misses afterwards. The error doesn't matter, because this is advice.
	_ = unix.Madvise(m, unix.MADV_HUGEPAGE)
	return m
}

// free undoes alloc. For heap memory Munmap fails with EINVAL and changes nothing,
// because x/sys keeps a list of its own mappings; the garbage collector frees it.
func free(m []byte) {
	if len(m) >= mapAbove {
		_ = unix.Munmap(m)
	}
}
