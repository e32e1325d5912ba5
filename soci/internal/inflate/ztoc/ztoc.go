package ztoc

import (
	"time"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// Version is the version of the list of checkpoints.
type Version int

// The versions.
const (
	V2 Version = iota // all checkpoints
	V1                // all but the first, which follows a header of 10 bytes
)

const (
	// The list of checkpoints starts with their number, an int32, and the size
	// of a span, an int64.
	blobHeader = 4 + 8
	checkpoint = 8 + 8 + 1 + flate.History
	// v1Header is the length of the header of a member without options, which
	// V1 assumes.
	v1Header = 10 // bytes
	// maxCheckpoints keeps all sizes below the range of an int32.
	maxCheckpoints = 1 << 16
)

// Ztoc is the content of a zTOC.
type Ztoc struct {
	Version     string // of the zTOC
	Tool        string // the build tool
	Size, Out   int64  // compressed and uncompressed bytes
	SpanSize    int64  // nominal bytes of output between checkpoints
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
