package untar

import (
	"archive/tar"
	"fmt"
	"slices"
	"strings"
)

// frames are archives that end early, late, or in the middle.
var frames = []specimen{
	{name: "nothing at all", attacks: "the end before the beginning", raw: "", want: nil},
	{name: "no end", attacks: "writers that forget it", raw: rawFile("f", "x"), want: []string{"f - x"}, tar: true},
	{name: "half an end", attacks: "writers that forget half of it", raw: rawFile("f", "x") + theEnd[:sector], want: []string{"f - x"}, tar: true},
	{name: "no last padding", attacks: "writers that forget it", raw: rawFile("f", "x")[:sector+1], want: []string{"f - x"}},
	{name: "half a header", attacks: "a stream that was cut", raw: rawFile("f", "x") + rawFile("g", "y")[:300], err: ErrFormat},
	{name: "zeros, then more", attacks: "two archives in one, of which each reader sees another", raw: rawFile("f", "x") + theEnd[:sector] + rawFile("g", "y") + theEnd, err: ErrFormat},
	{name: "more after the end", attacks: "two archives in one", raw: rawFile("f", "x") + theEnd + rawFile("g", "y") + theEnd, want: []string{"f - x"}, tar: true},
	{name: "garbage", attacks: "no archive at all", raw: strings.Repeat("garbage!", 200), err: ErrFormat},
	{name: "directory with a size", attacks: "content where there is none, or none where there is", raw: block(typeDir, "d", "12345").with("") + rawFile("f", "x") + theEnd, want: []string{"d/", "f - x"}},
	{name: "symlink with a size", attacks: "content where there is none", raw: block(typeSymlink, "l", "12345").put(linkOff, "x").with("") + rawFile("f", "x") + theEnd, want: []string{"f - x", "l -> x"}},
	{name: "unknown type with content", attacks: "content taken for headers", raw: block('Z', "z", rawFile("evil", "x")).with(rawFile("evil", "x")) + rawFile("f", "x") + theEnd, want: []string{"f - x"}},
	{name: "volume label", attacks: "types of GNU tar alone", raw: block('V', "label", "").gnu().with("") + rawFile("f", "x") + theEnd, want: []string{"f - x"}, tar: true},
	{name: "old directory", attacks: "a directory that says it is a file", raw: block(typeFileOld, "d/", "").old().with("") + rawFile("d/f", "x") + theEnd, want: []string{"d/", "d/f - x"}, tar: true},
	{name: "directory of type file", attacks: "a directory that says it is a file", raw: block(typeFile, "d/", "").with("") + rawFile("d/f", "x") + theEnd, want: []string{"d/", "d/f - x"}, tar: true},
	{name: "contiguous file", attacks: "types of other systems", raw: block(typeContiguous, "f", "x").with("x") + theEnd, want: []string{"f - x"}, tar: true},
	{name: "dump directory", attacks: "types of GNU tar alone", raw: block(typeGNUDumpDir, "d", "Yf\x00\x00").gnu().with("Yf\x00\x00") + rawFile("d/f", "x") + theEnd, want: []string{"d/", "d/f - x"}},
	{name: "fifo and unknown", attacks: "types of other systems", in: []ent{{name: "p", kind: tar.TypeFifo}, {name: "s", kind: 'Z'}}, want: []string{"p p---------"}},
	{name: "prefix of ustar", attacks: "names in two places", raw: block(typeFile, "f", "x").put(prefixOff, "a/b").with("x") + theEnd, want: []string{"a/", "a/b/", "a/b/f - x"}, tar: true},
	{name: "prefix of star", attacks: "times taken for a name", raw: block(typeFile, "f", "x").put(prefixOff, "a").put(prefixOff+starPrefixLen, "01234567012 ").put(starMagicOff, "tar\x00").with("x") + theEnd, want: []string{"a/", "a/f - x"}, tar: true},
	{name: "times of GNU", attacks: "times taken for a name", raw: block(typeFile, "f", "x").gnu().put(prefixOff, "01234567012\x0001234567012\x00").with("x") + theEnd, want: []string{"f - x"}, tar: true},
	{name: "prefix of old Go", attacks: "a name where GNU has times: old images are like that", raw: block(typeFile, "f", "x").gnu().put(prefixOff, "a/bcd").with("x") + theEnd, want: []string{"a/", "a/bcd/", "a/bcd/f - x"}},
}

// extended headers.
var extended = []specimen{
	{name: "record longer than its header", attacks: "reading beyond", raw: rawPax(typePax, "999 path=x\n") + rawFile("f", "x") + theEnd, err: ErrFormat},
	{name: "record without line end", attacks: "reading beyond", raw: rawPax(typePax, "8 path=x") + rawFile("f", "x") + theEnd, err: ErrFormat},
	{name: "record of negative length", attacks: "lengths below zero", raw: rawPax(typePax, "-9 path=x\n") + rawFile("f", "x") + theEnd, err: ErrFormat},
	{name: "record without value", attacks: "parsers that look for =", raw: rawPax(typePax, "8 pathx\n") + rawFile("f", "x") + theEnd, err: ErrFormat},
	{name: "two names", attacks: "readers that take the first", raw: records(typePax, "path", "a", "path", "b") + rawFile("f", "x") + theEnd, want: []string{"b - x"}, tar: true},
	{name: "two headers", attacks: "readers that take the first", raw: records(typePax, "path", "a") + records(typePax, "path", "b") + rawFile("f", "x") + theEnd, want: []string{"b - x"}, tar: true},
	{name: "header of nothing", attacks: "state that is left", raw: records(typePax, "path", "a") + theEnd, want: nil},
	{name: "name taken back", attacks: "an empty name", raw: records(typePax, "path", "") + rawFile("f", "x") + theEnd, want: []string{"f - x"}},
	{name: "a thousand headers", attacks: "memory", raw: strings.Repeat(records(typePax, "path", "a"), 1000) + rawFile("f", "x") + theEnd, want: []string{"a - x"}},
	{name: "header of 2 MiB", attacks: "memory", raw: rawPax(typePax, strings.Repeat("x", 2<<20)) + rawFile("f", "x") + theEnd, err: ErrLimit},
	{name: "header of 8 GiB", attacks: "memory before reading", raw: block(typePax, "pax", "").octal(sizeOff, sizeLen, 1<<33-1).with("") + rawFile("f", "x") + theEnd, err: ErrLimit},
	{name: "name of 2 MiB", attacks: "memory", raw: long(typeGNUName, strings.Repeat("x", 2<<20)) + rawFile("f", "x") + theEnd, err: ErrLimit},
	{name: "global name", attacks: "readers that see other names", raw: records(typePaxGlobal, "path", "a") + rawFile("f", "x") + theEnd, err: ErrFormat},
	{name: "global size", attacks: "readers that see other content", raw: records(typePaxGlobal, "size", "0") + rawFile("f", "x") + theEnd, err: ErrFormat},
	{name: "global comment", attacks: "nothing: git writes it", raw: records(typePaxGlobal, "comment", "0123456789abcdef") + rawFile("f", "x") + theEnd, want: []string{"f - x"}, tar: true},
	{
		name: "global time, then an own one", attacks: "defaults that stay",
		raw:  records(typePaxGlobal, "mtime", "12.5") + rawFile("f", "x") + records(typePax, "mtime", "13.25") + rawFile("g", "x") + rawFile("h", "x") + theEnd,
		want: []string{"f - x", "g - x", "h - x"}, tar: true,
	},
	{name: "long name and link of GNU", attacks: "names cut at 100 bytes", raw: long(typeGNUName, big(150)) + long(typeGNULink, big(160)) + block(typeSymlink, "short", "").gnu().put(linkOff, "short").with("") + theEnd, want: []string{big(150) + " -> " + big(160)}, tar: true},
	{name: "attribute with an empty name", attacks: "an error of the kernel", raw: records(typePax, "SCHILY.xattr.", "x") + rawFile("f", "x") + theEnd, want: []string{"f - x"}},
	{name: "attribute of 100 KiB", attacks: "an error of the kernel, late", raw: records(typePax, "SCHILY.xattr.user.a", big(100<<10)) + rawFile("f", "x") + theEnd, err: ErrFormat},
	{name: "attribute with a name of 300 bytes", attacks: "an error of the kernel, late", raw: records(typePax, "SCHILY.xattr.user."+tooLong, "x") + rawFile("f", "x") + theEnd, err: ErrFormat},
	{name: "attribute of no namespace", attacks: "an error of the kernel, late", raw: records(typePax, "SCHILY.xattr.nonsense", "x") + rawFile("f", "x") + theEnd, want: []string{"f - x"}},
}

// holes are sparse files.
var holes = []specimen{
	{name: "old sparse file", attacks: "content at the wrong place", raw: oldSparse("s", big(514), 4096, 512, 512, 2048, 2, 4096, 0) + theEnd, want: []string{"s - 4096 bytes"}, tar: true},
	{name: "hole at the end", attacks: "a file cut at its last piece", raw: oldSparse("s", "ab", 6, 2, 2) + theEnd, want: []string{"s - \x00\x00ab\x00\x00"}},
	{name: "pieces that overlap", attacks: "more content than is stored", raw: oldSparse("s", "abcd", 10, 2, 2, 3, 2) + theEnd, err: ErrFormat},
	{name: "pieces out of order", attacks: "more content than is stored", raw: oldSparse("s", "abcd", 10, 6, 2, 2, 2) + theEnd, err: ErrFormat},
	{name: "piece beyond the end", attacks: "a file longer than it says", raw: oldSparse("s", "abcd", 10, 8, 4) + theEnd, err: ErrFormat},
	{name: "pieces beyond what is stored", attacks: "the next header as content", raw: oldSparse("s", "abcd", 4096, 0, 1024) + rawFile("f", "x") + theEnd, err: ErrFormat},
	{name: "pieces short of what is stored", attacks: "content as the next header", raw: oldSparse("s", rawFile("evil", "x"), 10, 0, 2) + theEnd, err: ErrFormat},
	{name: "sparse file of 8 EiB", attacks: "the size of the disk", raw: sparse1("s", "0\n", "", "9223372036854775807") + theEnd, err: ErrLimit},
	{name: "negative size of a sparse file", attacks: "lengths below zero", raw: sparse1("s", "0\n", "", "-1") + theEnd, err: ErrFormat},
	{name: "map that does not end", attacks: "endless reading", raw: sparse1("s", strings.Repeat("1", 5000), "", "10") + theEnd, err: ErrFormat},
	{name: "map of a million million pieces", attacks: "memory before reading", raw: sparse1("s", "1000000000000\n", "", "10") + theEnd, err: ErrLimit},
	{name: "map with letters", attacks: "parsers that stop anywhere", raw: sparse1("s", "1\nx\n2\n", "", "10") + theEnd, err: ErrFormat},
	{name: "map with negative numbers", attacks: "lengths below zero", raw: sparse1("s", "1\n-5\n2\n", "ab", "10") + theEnd, err: ErrFormat},
	{name: "sparse file by pax", attacks: "content at the wrong place", raw: sparse1("s", "3\n512\n512\n2048\n2\n4096\n0\n", big(514), "4096") + theEnd, want: []string{"s - 4096 bytes"}, tar: true},
	{
		name: "old map by pax", attacks: "content at the wrong place",
		raw:  records(typePax, "GNU.sparse.size", "4096", "GNU.sparse.numblocks", "3", "GNU.sparse.map", "512,512,2048,2,4096,0", "GNU.sparse.name", "s") + rawFile("x", big(514)) + theEnd,
		want: []string{"s - 4096 bytes"}, tar: true,
	},
	{name: "old map with half a pair", attacks: "reading beyond", raw: records(typePax, "GNU.sparse.size", "10", "GNU.sparse.map", "2,2,6") + rawFile("s", "abcd") + theEnd, err: ErrFormat},
	{name: "offsets without lengths", attacks: "reading beyond", raw: records(typePax, "GNU.sparse.size", "10", "GNU.sparse.offset", "2", "GNU.sparse.offset", "3") + rawFile("s", "abcd") + theEnd, err: ErrFormat},
	{name: "sparse format of the future", attacks: "the map as content", raw: records(typePax, "GNU.sparse.major", "2", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "10") + rawFile("s", "abcd") + theEnd, err: ErrFormat},
	{name: "sparse name that escapes", attacks: "a check of the other name", raw: sparse1("../../out/evil", "1\n0\n1\n", "a", "1") + theEnd, err: ErrUnsafe},
	{name: "sparse directory", attacks: "state that is left", raw: records(typePax, "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "10") + block(typeDir, "d", "").with("") + theEnd, want: []string{"d/"}},
}

// small are the limits that these exceed.
var small = Limits{Entries: 10, Depth: 5, NameLen: 64, TotalSize: 1 << 20}

func crowd() []ent {
	many := make([]ent, 11)
	for i := range many {
		many[i] = file(fmt.Sprint("f", i), "")
	}
	return many
}

var limited = []specimen{
	{name: "too many entries", attacks: "inodes", in: crowd(), err: ErrLimit},
	{name: "too many whiteouts", attacks: "memory", in: slices.Repeat([]ent{file(".wh.x", "")}, 11), err: ErrLimit},
	{name: "too deep", attacks: "the time of each look-up", in: []ent{dir("a/b/c/d/e/f")}, err: ErrLimit},
	{name: "too deep by symlinks", attacks: "a check of the name alone", in: []ent{symlink("l", "a/b/c/d"), symlink("a/b/c/d/m", "x/y/z"), file("l/m/f", "x")}, err: ErrLimit},
	{name: "name too long", attacks: "memory", in: []ent{file(strings.Repeat("a/", 32)+"f", "x")}, err: ErrLimit},
	{name: "too large together", attacks: "the disk", in: []ent{file("a", big(700<<10)), file("b", big(700<<10))}, err: ErrLimit},
}

var corpus = slices.Concat(paths, doors, links, doubles, marks, fields, frames, extended, holes, limited)
