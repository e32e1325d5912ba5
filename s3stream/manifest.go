package s3stream

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"path"
	"slices"
	"sort"
	"strings"
	"time"
)

// Object is one object of a job, pinned to one version.
type Object struct {
	Bucket string `json:"bucket"`
	Key    string `json:"key"`
	// Name is where a directory gets the object: the key without the prefix
	// that was asked for.
	Name      string `json:"name"`
	VersionID string `json:"versionId,omitempty"`
	ETag      string `json:"etag,omitempty"`
	Size      int64  `json:"size"`
	// Checksum of the whole object as the store knows it: "CRC64NVME" or
	// "CRC32C", a colon, and hexadecimal digits; "" if it told none.
	Checksum string `json:"checksum,omitempty"`
	// Modified stands in for a missing ETag where the store is read; workers do not
	// need it.
	Modified time.Time `json:"-"`
}

// String returns the object's URI.
func (o *Object) String() string { return "s3://" + o.Bucket + "/" + o.Key }

// manifest is what a job delivers. It is fixed before the first byte is sent,
// and every node has the same one.
type manifest struct {
	Job        string   `json:"job"`   // random, tells runs apart
	Epoch      uint32   `json:"epoch"` // counts the leaders of a job; 1 for the first
	BlockBytes int64    `json:"blockBytes"`
	Objects    []Object `json:"objects"`

	size int64 // of Objects in memory, while they come
}

// Bytes returns the size of all objects together.
func (m *manifest) Bytes() int64 {
	var n int64
	for i := range m.Objects {
		n += m.Objects[i].Size
	}
	return n
}

// Limits of a manifest: what one node is willing to keep of somebody's word.
const (
	// MaxObjects of one job; a manifest entry takes some 300 bytes.
	MaxObjects = 1 << 20
	// MinBlockBytes is the smallest block: below it headers and system calls
	// outweigh the bytes, and a pooled buffer is no smaller.
	MinBlockBytes = 16 << 10
	// MaxBlockBytes is the largest: a relay holds whole blocks.
	MaxBlockBytes = 16 << 20
	// maxKey is S3's limit of a key in bytes.
	maxKey = 1024
	// maxBucket is the length of the longest ARN in bytes.
	maxBucket = 2048
	// maxTag is the length of a version in bytes, S3's longest identifier of an object.
	maxTag = 1024
	// maxTotal of all objects together: 2^60 bytes keep sums of offsets
	// from overflow.
	maxTotal = 1 << 60
)

// minManifest is what any node lets the list of objects take, in bytes: some 200,000 objects.
const minManifest = 64 << 20

// maxManifest is how many bytes the list of objects may take at a worker, beside its buffers: as much as they.
func maxManifest(memory int64) int64 { return max(minManifest, memory) }

// entryBytes is the size of an Object without its strings.
const entryBytes = 128

// bytes is about what the object takes in memory.
func (o *Object) bytes() int64 {
	return entryBytes + int64(len(o.Bucket)+len(o.Key)+len(o.Name)+len(o.VersionID)+len(o.ETag)+len(o.Checksum))
}

// add appends a piece of the manifest that came from the leader, which announced so many objects, and refuses what a
// leader of ours does not send before it takes memory.
func (m *manifest) add(piece []objectMsg, announced int, limit int64) error {
	if len(m.Objects)+len(piece) > announced {
		return fmt.Errorf("more than the %d objects announced", announced)
	}
	for i := range piece {
		o := piece[i].object()
		if err := o.check(); err != nil {
			return err
		}
		if m.size += o.bytes(); m.size > limit {
			return fmt.Errorf("the list of %d objects takes more than %d bytes: give the worker more memory, or send fewer objects", announced, limit)
		}
		m.Objects = append(m.Objects, o)
	}
	return nil
}

// check says which of the object's strings no store sends.
func (o *Object) check() error {
	switch {
	case len(o.Key) > maxKey || len(o.Name) > maxKey:
		return fmt.Errorf("key of %d bytes is longer than the %d that S3 allows", max(len(o.Key), len(o.Name)), maxKey)
	case len(o.Bucket) > maxBucket:
		return fmt.Errorf("bucket name of %d bytes is longer than the %d of an access point's ARN", len(o.Bucket), maxBucket)
	case len(o.ETag) > maxTag || len(o.VersionID) > maxTag || len(o.Checksum) > maxTag:
		return fmt.Errorf("%s: its ETag, version or checksum is longer than %d bytes", o, maxTag)
	}
	return nil
}

// check says what is wrong with a manifest that came from outside.
func (m *manifest) check() error {
	if m.BlockBytes < MinBlockBytes || m.BlockBytes > MaxBlockBytes {
		return fmt.Errorf("block size %d is not between %d and %d bytes", m.BlockBytes, MinBlockBytes, MaxBlockBytes)
	}
	if len(m.Objects) > MaxObjects {
		return fmt.Errorf("%d objects are more than the %d of one job: use a longer prefix", len(m.Objects), MaxObjects)
	}
	var total int64
	for i := range m.Objects {
		o := &m.Objects[i]
		if o.Size < 0 || o.Size > maxTotal-total {
			return fmt.Errorf("%s: impossible size %d", o, o.Size)
		}
		total += o.Size
		if err := o.check(); err != nil {
			return err
		}
	}
	return nil
}

// checkNames says whether every object has a place of its own in a directory.
func (m *manifest) checkNames() error {
	names := make([]string, 0, len(m.Objects))
	of := func(name string) string { // the URIs of the first two objects with the name
		var uris []string
		for i := range m.Objects {
			if o := &m.Objects[i]; o.Name == name && len(uris) < 2 {
				uris = append(uris, o.String())
			}
		}
		return strings.Join(uris, " and ")
	}
	for i := range m.Objects {
		o := &m.Objects[i]
		if err := checkName(o.Name); err != nil {
			return fmt.Errorf("%s has no place in a directory: %w", o, err)
		}
		names = append(names, o.Name)
	}
	slices.Sort(names)
	for i, n := range names {
		if i > 0 && names[i-1] == n {
			return fmt.Errorf("%s would both become the file %q", of(n), n)
		}
		// "a" and "a/b": between them only names that start with "a" followed
		// by a byte below '/', so search for the first that starts with "a/".
		dir := n + "/"
		if j, _ := slices.BinarySearch(names, dir); j < len(names) && strings.HasPrefix(names[j], dir) {
			return fmt.Errorf("%s would be the file %q and %s would need it as a directory", of(n), n, of(names[j]))
		}
	}
	return nil
}

func checkName(n string) error {
	switch {
	case n == "":
		return errors.New("its name is empty")
	case strings.HasSuffix(n, "/"):
		return errors.New("its name ends in a slash")
	case path.IsAbs(n) || path.Clean(n) != n || n == "." || n == ".." || strings.HasPrefix(n, "../"):
		return fmt.Errorf("the path %q is not plain and relative", n)
	case strings.ContainsRune(n, 0):
		return errors.New("its name has a NUL byte")
	}
	for part := range strings.SplitSeq(n, "/") {
		if strings.HasPrefix(part, tempPrefix) {
			return fmt.Errorf("names that start with %q are taken", tempPrefix)
		}
	}
	return nil
}

// items numbers what a job sends: the blocks of the first object, its end, the
// blocks of the second, and so on. A position in the job is one item number,
// the same at every node; block i of an object covers its bytes from
// i*BlockBytes on.
type items struct {
	m     *manifest
	first []uint64 // first[i] is the first item of object i; one more entry for the total
}

func newItems(m *manifest) *items {
	it := &items{m: m, first: make([]uint64, len(m.Objects)+1)}
	for i := range m.Objects {
		it.first[i+1] = it.first[i] + it.blocks(i) + 1
	}
	return it
}

func (it *items) blocks(object int) uint64 {
	return uint64((it.m.Objects[object].Size + it.m.BlockBytes - 1) / it.m.BlockBytes)
}

// total is the number of items.
func (it *items) total() uint64 { return it.first[len(it.first)-1] }

// place is where an item belongs.
type place struct {
	object int
	off    int64 // of the block; the object's size for its end
	n      int64 // bytes of the block; 0 for an end
	end    bool
}

// at returns the place of item seq < total.
func (it *items) at(seq uint64) place {
	o := sort.Search(len(it.m.Objects), func(i int) bool { return it.first[i+1] > seq })
	size := it.m.Objects[o].Size
	off := int64(seq-it.first[o]) * it.m.BlockBytes
	if seq == it.first[o+1]-1 {
		return place{object: o, off: size, end: true}
	}
	return place{object: o, off: off, n: min(it.m.BlockBytes, size-off)}
}

// digest is the hash of a whole job: over the name, size and CRC32C of every
// object in order. Leader and workers compute it each from their own bytes.
type digest struct{ h hash.Hash }

func newDigest() digest { return digest{sha256.New()} }

func (d digest) add(o *Object, sum uint32) {
	var b []byte
	b = binary.BigEndian.AppendUint32(b, uint32(len(o.Name)))
	b = append(b, o.Name...)
	b = binary.BigEndian.AppendUint64(b, uint64(o.Size))
	b = binary.BigEndian.AppendUint32(b, sum)
	d.h.Write(b)
}

func (d digest) String() string { return hex.EncodeToString(d.h.Sum(nil)) }
