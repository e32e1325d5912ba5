package untar

import (
	"archive/tar"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/soci/internal/tarfile"
	"github.com/penstock/penstock/soci/internal/tarfile/tartest"
)

// framingSpecimens are archives that end early, late, or in the middle of an
// entry.
var framingSpecimens = []specimen{
	{name: "empty input", attacks: "the end before the beginning", raw: "", want: nil},
	{name: "no end", attacks: "writers that forget it", raw: tartest.File("f", "x"), want: []string{"f - x"}, tar: true},
	{name: "half an end", attacks: "writers that forget half of it", raw: tartest.File("f", "x") + tartest.End[:tarfile.BlockSize], want: []string{"f - x"}, tar: true},
	{name: "no last padding", attacks: "writers that forget it", raw: tartest.File("f", "x")[:tarfile.BlockSize+1], want: []string{"f - x"}},
	{name: "half a header", attacks: "a stream that was cut", raw: tartest.File("f", "x") + tartest.File("g", "y")[:300], err: ErrFormat},
	{name: "zeros, then more", attacks: "two archives in one, seen differently by readers", raw: tartest.File("f", "x") + tartest.End[:tarfile.BlockSize] + tartest.File("g", "y") + tartest.End, err: ErrFormat},
	{name: "more after the end", attacks: "two archives in one", raw: tartest.File("f", "x") + tartest.End + tartest.File("g", "y") + tartest.End, want: []string{"f - x"}, tar: true},
	{name: "garbage", attacks: "input that is not an archive", raw: strings.Repeat("garbage!", 200), err: ErrFormat},
	{name: "directory with a size", attacks: "a wrong assumption about content", raw: tartest.Block(tarfile.TypeDir, "d", "12345").With("") + tartest.File("f", "x") + tartest.End, want: []string{"d/", "f - x"}},
	{name: "symlink with a size", attacks: "content after an entry without content", raw: tartest.Block(tarfile.TypeSymlink, "l", "12345").Put(tartest.LinkOff, "x").With("") + tartest.File("f", "x") + tartest.End, want: []string{"f - x", "l -> x"}},
	{name: "unknown type with content", attacks: "content taken for headers", raw: tartest.Block('Z', "z", tartest.File("evil", "x")).With(tartest.File("evil", "x")) + tartest.File("f", "x") + tartest.End, want: []string{"f - x"}},
	{name: "volume label", attacks: "types of GNU tar alone", raw: tartest.Block('V', "label", "").GNU().With("") + tartest.File("f", "x") + tartest.End, want: []string{"f - x"}, tar: true},
	{name: "old directory", attacks: "a directory that says it is a file", raw: tartest.Block(tarfile.TypeFileV7, "d/", "").V7().With("") + tartest.File("d/f", "x") + tartest.End, want: []string{"d/", "d/f - x"}, tar: true},
	{name: "directory of type file", attacks: "a directory that says it is a file", raw: tartest.Block(tarfile.TypeFile, "d/", "").With("") + tartest.File("d/f", "x") + tartest.End, want: []string{"d/", "d/f - x"}, tar: true},
	{name: "contiguous file", attacks: "types of other systems", raw: tartest.Block(tarfile.TypeContiguous, "f", "x").With("x") + tartest.End, want: []string{"f - x"}, tar: true},
	{name: "dump directory", attacks: "types of GNU tar alone", raw: tartest.Block(tarfile.TypeGNUDumpDir, "d", "Yf\x00\x00").GNU().With("Yf\x00\x00") + tartest.File("d/f", "x") + tartest.End, want: []string{"d/", "d/f - x"}},
	{name: "fifo and unknown", attacks: "types of other systems", in: []ent{{name: "p", kind: tar.TypeFifo}, {name: "s", kind: 'Z'}}, want: []string{"p p---------"}},
	{name: "prefix of ustar", attacks: "names in two places", raw: tartest.Block(tarfile.TypeFile, "f", "x").Put(tartest.PrefixOff, "a/b").With("x") + tartest.End, want: []string{"a/", "a/b/", "a/b/f - x"}, tar: true},
	{name: "prefix of star", attacks: "times taken for a name", raw: tartest.Block(tarfile.TypeFile, "f", "x").Put(tartest.PrefixOff, "a").Put(tartest.PrefixOff+tartest.StarPrefix, "01234567012 ").Put(tartest.StarOff, "tar\x00").With("x") + tartest.End, want: []string{"a/", "a/f - x"}, tar: true},
	{name: "times of GNU", attacks: "times taken for a name", raw: tartest.Block(tarfile.TypeFile, "f", "x").GNU().Put(tartest.PrefixOff, "01234567012\x0001234567012\x00").With("x") + tartest.End, want: []string{"f - x"}, tar: true},
	{name: "prefix of old Go", attacks: "a prefix in the place of GNU's times, as in old images", raw: tartest.Block(tarfile.TypeFile, "f", "x").GNU().Put(tartest.PrefixOff, "a/bcd").With("x") + tartest.End, want: []string{"a/", "a/bcd/", "a/bcd/f - x"}},
}

// paxSpecimens are archives with extended headers.
var paxSpecimens = []specimen{
	{name: "record longer than its header", attacks: "reading beyond", raw: tartest.Pax(tarfile.TypePax, "999 path=x\n") + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "record without line end", attacks: "reading beyond", raw: tartest.Pax(tarfile.TypePax, "8 path=x") + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "record of negative length", attacks: "lengths below zero", raw: tartest.Pax(tarfile.TypePax, "-9 path=x\n") + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "record without value", attacks: "parsers that look for =", raw: tartest.Pax(tarfile.TypePax, "8 pathx\n") + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "two names", attacks: "readers that take the first", raw: tartest.Records(tarfile.TypePax, "path", "a", "path", "b") + tartest.File("f", "x") + tartest.End, want: []string{"b - x"}, tar: true},
	{name: "two headers", attacks: "readers that take the first", raw: tartest.Records(tarfile.TypePax, "path", "a") + tartest.Records(tarfile.TypePax, "path", "b") + tartest.File("f", "x") + tartest.End, want: []string{"b - x"}, tar: true},
	{name: "header without an entry", attacks: "state left by a previous entry", raw: tartest.Records(tarfile.TypePax, "path", "a") + tartest.End, want: nil},
	{name: "name removed again", attacks: "an empty name", raw: tartest.Records(tarfile.TypePax, "path", "") + tartest.File("f", "x") + tartest.End, want: []string{"f - x"}},
	{name: "a thousand headers", attacks: "memory", raw: strings.Repeat(tartest.Records(tarfile.TypePax, "path", "a"), 1000) + tartest.File("f", "x") + tartest.End, want: []string{"a - x"}},
	{name: "header of 2 MiB", attacks: "memory", raw: tartest.Pax(tarfile.TypePax, strings.Repeat("x", 2<<20)) + tartest.File("f", "x") + tartest.End, err: ErrLimit},
	{name: "header of 8 GiB", attacks: "memory before reading", raw: tartest.Block(tarfile.TypePax, "pax", "").Octal(tartest.SizeOff, tartest.SizeLen, 1<<33-1).With("") + tartest.File("f", "x") + tartest.End, err: ErrLimit},
	{name: "name of 2 MiB", attacks: "memory", raw: tartest.LongName(tarfile.TypeGNUName, strings.Repeat("x", 2<<20)) + tartest.File("f", "x") + tartest.End, err: ErrLimit},
	{name: "global name", attacks: "readers that see other names", raw: tartest.Records(tarfile.TypePaxGlobal, "path", "a") + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "global size", attacks: "readers that see other content", raw: tartest.Records(tarfile.TypePaxGlobal, "size", "0") + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "global comment", attacks: "nothing: git writes it", raw: tartest.Records(tarfile.TypePaxGlobal, "comment", "0123456789abcdef") + tartest.File("f", "x") + tartest.End, want: []string{"f - x"}, tar: true},
	{
		name: "global time, then an own one", attacks: "defaults that stay",
		raw:  tartest.Records(tarfile.TypePaxGlobal, "mtime", "12.5") + tartest.File("f", "x") + tartest.Records(tarfile.TypePax, "mtime", "13.25") + tartest.File("g", "x") + tartest.File("h", "x") + tartest.End,
		want: []string{"f - x", "g - x", "h - x"}, tar: true,
	},
	{name: "long name and link of GNU", attacks: "names cut at 100 bytes", raw: tartest.LongName(tarfile.TypeGNUName, bigContent(150)) + tartest.LongName(tarfile.TypeGNULink, bigContent(160)) + tartest.Block(tarfile.TypeSymlink, "short", "").GNU().Put(tartest.LinkOff, "short").With("") + tartest.End, want: []string{bigContent(150) + " -> " + bigContent(160)}, tar: true},
	{name: "attribute with an empty name", attacks: "an error of the kernel", raw: tartest.Records(tarfile.TypePax, "SCHILY.xattr.", "x") + tartest.File("f", "x") + tartest.End, want: []string{"f - x"}},
	{name: "attribute of 100 KiB", attacks: "an error of the kernel, late", raw: tartest.Records(tarfile.TypePax, "SCHILY.xattr.user.a", bigContent(100<<10)) + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "attribute with a name of 300 bytes", attacks: "an error of the kernel, late", raw: tartest.Records(tarfile.TypePax, "SCHILY.xattr.user."+tooLong, "x") + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "attribute without a namespace", attacks: "an error of the kernel, late", raw: tartest.Records(tarfile.TypePax, "SCHILY.xattr.nonsense", "x") + tartest.File("f", "x") + tartest.End, want: []string{"f - x"}},
}

// sparseSpecimens are sparse files.
var sparseSpecimens = []specimen{
	{name: "old sparse file", attacks: "content at the wrong place", raw: tartest.OldSparse("s", bigContent(514), 4096, 512, 512, 2048, 2, 4096, 0) + tartest.End, want: []string{"s - 4096 bytes"}, tar: true},
	{name: "hole at the end", attacks: "a file cut at its last piece", raw: tartest.OldSparse("s", "ab", 6, 2, 2) + tartest.End, want: []string{"s - \x00\x00ab\x00\x00"}},
	{name: "pieces that overlap", attacks: "more content than is stored", raw: tartest.OldSparse("s", "abcd", 10, 2, 2, 3, 2) + tartest.End, err: ErrFormat},
	{name: "pieces out of order", attacks: "more content than is stored", raw: tartest.OldSparse("s", "abcd", 10, 6, 2, 2, 2) + tartest.End, err: ErrFormat},
	{name: "piece beyond the end", attacks: "a file longer than it says", raw: tartest.OldSparse("s", "abcd", 10, 8, 4) + tartest.End, err: ErrFormat},
	{name: "pieces beyond what is stored", attacks: "the next header as content", raw: tartest.OldSparse("s", "abcd", 4096, 0, 1024) + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "pieces short of what is stored", attacks: "content as the next header", raw: tartest.OldSparse("s", tartest.File("evil", "x"), 10, 0, 2) + tartest.End, err: ErrFormat},
	{name: "sparse file of 8 EiB", attacks: "the size of the disk", raw: tartest.Sparse1("s", "0\n", "", "9223372036854775807") + tartest.End, err: ErrLimit},
	{name: "negative size of a sparse file", attacks: "lengths below zero", raw: tartest.Sparse1("s", "0\n", "", "-1") + tartest.End, err: ErrFormat},
	{name: "map that does not end", attacks: "endless reading", raw: tartest.Sparse1("s", strings.Repeat("1", 5000), "", "10") + tartest.End, err: ErrFormat},
	{name: "map of a million million pieces", attacks: "memory before reading", raw: tartest.Sparse1("s", "1000000000000\n", "", "10") + tartest.End, err: ErrLimit},
	{name: "map with letters", attacks: "parsers that stop anywhere", raw: tartest.Sparse1("s", "1\nx\n2\n", "", "10") + tartest.End, err: ErrFormat},
	{name: "map with negative numbers", attacks: "lengths below zero", raw: tartest.Sparse1("s", "1\n-5\n2\n", "ab", "10") + tartest.End, err: ErrFormat},
	{name: "sparse file by pax", attacks: "content at the wrong place", raw: tartest.Sparse1("s", "3\n512\n512\n2048\n2\n4096\n0\n", bigContent(514), "4096") + tartest.End, want: []string{"s - 4096 bytes"}, tar: true},
	{
		name: "old map by pax", attacks: "content at the wrong place",
		raw:  tartest.Records(tarfile.TypePax, "GNU.sparse.size", "4096", "GNU.sparse.numblocks", "3", "GNU.sparse.map", "512,512,2048,2,4096,0", "GNU.sparse.name", "s") + tartest.File("x", bigContent(514)) + tartest.End,
		want: []string{"s - 4096 bytes"}, tar: true,
	},
	{name: "old map with half a pair", attacks: "reading beyond", raw: tartest.Records(tarfile.TypePax, "GNU.sparse.size", "10", "GNU.sparse.map", "2,2,6") + tartest.File("s", "abcd") + tartest.End, err: ErrFormat},
	{name: "offsets without lengths", attacks: "reading beyond", raw: tartest.Records(tarfile.TypePax, "GNU.sparse.size", "10", "GNU.sparse.offset", "2", "GNU.sparse.offset", "3") + tartest.File("s", "abcd") + tartest.End, err: ErrFormat},
	{name: "sparse format of the future", attacks: "the map as content", raw: tartest.Records(tarfile.TypePax, "GNU.sparse.major", "2", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "10") + tartest.File("s", "abcd") + tartest.End, err: ErrFormat},
	{name: "sparse name that escapes", attacks: "a check of the other name", raw: tartest.Sparse1("../../out/evil", "1\n0\n1\n", "a", "1") + tartest.End, err: ErrUnsafe},
	{name: "sparse directory", attacks: "state left by a previous entry", raw: tartest.Records(tarfile.TypePax, "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "10") + tartest.Block(tarfile.TypeDir, "d", "").With("") + tartest.End, want: []string{"d/"}},
}

// smallLimits are the limits that the archives below exceed.
var smallLimits = Limits{Entries: 10, Depth: 5, NameLen: 64, TotalSize: 1 << 20}

func manyNames() []ent {
	many := make([]ent, 11)
	for i := range many {
		many[i] = file(fmt.Sprint("f", i), "")
	}
	return many
}

var limitSpecimens = []specimen{
	{name: "too many entries", attacks: "inodes", in: manyNames(), err: ErrLimit},
	{name: "too many whiteouts", attacks: "memory", in: slices.Repeat([]ent{file(".wh.x", "")}, 11), err: ErrLimit},
	{name: "too deep", attacks: "the time of each look-up", in: []ent{dir("a/b/c/d/e/f")}, err: ErrLimit},
	{name: "too deep by symlinks", attacks: "a check of the name alone", in: []ent{symlink("l", "a/b/c/d"), symlink("a/b/c/d/m", "x/y/z"), file("l/m/f", "x")}, err: ErrLimit},
	{name: "name too long", attacks: "memory", in: []ent{file(strings.Repeat("a/", 32)+"f", "x")}, err: ErrLimit},
	{name: "too large together", attacks: "the disk", in: []ent{file("a", bigContent(700<<10)), file("b", bigContent(700<<10))}, err: ErrLimit},
}

var corpus = slices.Concat(pathSpecimens, symlinkSpecimens, hardLinkSpecimens, duplicateSpecimens, whiteoutSpecimens, numberSpecimens, framingSpecimens, paxSpecimens, sparseSpecimens, limitSpecimens)
