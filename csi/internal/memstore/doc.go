// Package memstore is a bucket in memory: the model that tests of the file system compare with, and the example backend.
//
//	var s memstore.Store
//	s.Put("a/b", []byte("hello"))
//	core := fs.New(&s, fs.Options{})
//
// It lists in byte order with common prefixes as S3 does, gives every version its own ETag, and refuses reads of a
// version that is not the current one. Fail lets a test script faults. Safe for parallel use; its zero value is an
// empty bucket. It keeps no old versions and never expires anything.
package memstore
