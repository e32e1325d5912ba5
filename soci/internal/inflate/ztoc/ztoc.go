package ztoc

import (
	"time"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// Version is that of the blob of checkpoints.
type Version int

// The versions.
const (
	V2 Version = iota // all checkpoints
	V1                // all but the first, which is said to be behind a header of 10 bytes
)

const (
	// The blob: an int32, how many checkpoints, and an int64, the size of a span;
	// then each.
	blobHeader = 4 + 8
	checkpoint = 8 + 8 + 1 + flate.History
	// v1Header is the header of a member without options, which V1 takes for granted.
	v1Header = 10 // bytes
	// maxCheckpoints keeps sizes in int32.
	maxCheckpoints = 1 << 16
)

// Ztoc is what a zTOC says.
type Ztoc struct {
	Version     string // of the zTOC
	Tool        string // that made it
	Size, Out   int64  // compressed and uncompressed bytes
	SpanSize    int64  // bytes of output between checkpoints, as it was wanted
	SpanDigests []string
	Files       []File
	Index       *index.Index
}

// File is an entry of the tar.
type File struct {
	Name, Type   string // type: reg, dir, symlink, hardlink, char, block, fifo
	Offset, Size int64  // of its content, in the tar
	Link         string
	Mode         int64
	UID, GID     uint32
	Uname, Gname string
	ModTime      time.Time
	DevMajor     int64
	DevMinor     int64
	PAX          map[string]string
}
