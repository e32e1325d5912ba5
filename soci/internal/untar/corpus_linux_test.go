package untar

import (
	"archive/tar"
	"strings"
	"syscall"

	"github.com/penstock/penstock/soci/internal/tarfile"
	"github.com/penstock/penstock/soci/internal/tarfile/tartest"
)

// specimen is a hand-made archive that tries to escape, confuse or exhaust the
// extraction.
type specimen struct {
	name    string
	attacks string // the weakness that it targets
	in      []ent
	raw     string   // instead of in: bytes that no writer produces
	err     error    // the expected error, or
	want    []string // the expected tree, as listing describes it
	tar     bool     // GNU tar has the same result, entry by entry
}

var tooLong = strings.Repeat("n", 300)

// pathSpecimens try to leave the root by name.
var pathSpecimens = []specimen{
	{name: "dot dot", attacks: "write next to the root", in: []ent{file("../evil", "x")}, err: ErrUnsafe},
	{name: "dot dot deep", attacks: "climb out from below", in: []ent{file("a/b/../../../evil", "x")}, err: ErrUnsafe},
	{name: "dot dot alone", attacks: "change the root's parent", in: []ent{dir("..")}, err: ErrUnsafe},
	{name: "dot dot inside", attacks: "readers that refuse harmless names", in: []ent{file("a/../b", "x")}, want: []string{"b - x"}},
	{name: "absolute", attacks: "write to the host", in: []ent{file("/etc/passwd", "x")}, want: []string{"etc/", "etc/passwd - x"}, tar: true},
	{name: "absolute twice", attacks: "strip one slash only", in: []ent{file("//etc//x", "x")}, want: []string{"etc/", "etc/x - x"}, tar: true},
	{name: "absolute dot dot", attacks: "cleaning before stripping", in: []ent{file("/../evil", "x")}, err: ErrUnsafe},
	{name: "dots in names", attacks: "a search for .. anywhere", in: []ent{file("..a/b..", "x"), file("...", "y")}, want: []string{"... - y", "..a/", "..a/b.. - x"}, tar: true},
	{name: "path by pax", attacks: "a check of the short name", raw: tartest.Records(tarfile.TypePax, "path", "../../out/evil") + tartest.File("fine", "x") + tartest.End, err: ErrUnsafe},
	{name: "link by pax", attacks: "a check of the short target", raw: tartest.Records(tarfile.TypePax, "linkpath", "../../out/victim") + tartest.Block(tarfile.TypeHardLink, "h", "").With("") + tartest.End, err: ErrUnsafe},
	{name: "path by GNU", attacks: "a check of the short name", raw: tartest.LongName(tarfile.TypeGNUName, "../../out/evil") + tartest.File("fine", "x") + tartest.End, err: ErrUnsafe},
	{name: "prefix", attacks: "a check of the name without its prefix", raw: tartest.Block(tarfile.TypeFile, "evil", "x").Put(tartest.PrefixOff, "../../out").With("x") + tartest.End, err: ErrUnsafe},
	{name: "zero byte in a pax path", attacks: "C programs cut, others do not", raw: tartest.Records(tarfile.TypePax, "path", "a\x00b") + tartest.File("fine", "x") + tartest.End, err: ErrFormat},
	{name: "zero byte in a pax link", attacks: "C programs cut, others do not", raw: tartest.Records(tarfile.TypePax, "linkpath", "a\x00b") + tartest.Block(tarfile.TypeSymlink, "l", "").With("") + tartest.End, err: ErrFormat},
	{name: "control characters and bad UTF-8", attacks: "code that believes names are text", in: []ent{file("a\nb", "1")}, want: []string{"a\nb - 1"}, tar: true},
	{name: "not UTF-8", attacks: "code that believes names are text", raw: tartest.File("\xff\xfe/\xc3", "1") + tartest.End, want: []string{"\xff\xfe/", "\xff\xfe/\xc3 - 1"}, tar: true},
	{name: "backslash and drive", attacks: "separators of other systems", in: []ent{file(`..\evil`, "1"), file("C:/x", "2")}, want: []string{`..\evil - 1`, "C:/", "C:/x - 2"}, tar: true},
	{
		name: "case and composition", attacks: "tables that fold names",
		in:   []ent{file("a", "1"), file("A", "2"), file("\u00e9", "3"), file("e\u0301", "4")},
		want: []string{"A - 2", "a - 1", "e\u0301 - 4", "\u00e9 - 3"}, tar: true,
	},
	{name: "empty name", attacks: "an empty path, for which each call has a different error", raw: tartest.Block(tarfile.TypeFile, "", "x").With("x") + tartest.End, err: ErrUnsafe},
	{name: "root as file", attacks: "replace the root", in: []ent{file(".", "x")}, err: ErrUnsafe},
	{name: "root as symlink", attacks: "replace the root by a link", in: []ent{symlink("./", "/tmp")}, err: ErrUnsafe},
	{name: "root by a slash", attacks: "replace the root", in: []ent{dir("/")}, want: nil},
	{name: "component too long", attacks: "truncation of names", in: []ent{file(tooLong, "x")}, err: syscall.ENAMETOOLONG},
}

// symlinkSpecimens are entries whose path crosses a symbolic link.
var symlinkSpecimens = []specimen{
	{
		name: "symlink to outside, then through it", attacks: "write through a link",
		in:   []ent{symlink("l", "../../out"), file("l/evil", "x")},
		want: []string{"l -> ../../out", "out/", "out/evil - x"},
	},
	{
		name: "absolute symlink, then through it", attacks: "write through a link",
		in:   []ent{symlink("l", "/tmp"), file("l/evil", "x")},
		want: []string{"l -> /tmp", "tmp/", "tmp/evil - x"},
	},
	{
		name: "chain of symlinks climbing", attacks: "links that are harmless one by one",
		in:   []ent{dir("d"), symlink("d/a", ".."), symlink("d/b", "a/.."), symlink("d/c", "b/../../out"), file("d/c/evil", "x")},
		want: []string{"d/", "d/a -> ..", "d/b -> a/..", "d/c -> b/../../out", "out/", "out/evil - x"},
	},
	{name: "symlink loop", attacks: "endless resolution", in: []ent{symlink("a", "b"), symlink("b", "a"), file("a/x", "x")}, err: ErrFormat},
	{name: "symlink to itself", attacks: "endless resolution", in: []ent{symlink("a", "a"), file("a/x", "x")}, err: ErrFormat},
	{name: "file over symlink to victim", attacks: "open that follows", in: []ent{symlink("l", "../../out/victim"), file("l", "mine")}, want: []string{"l - mine"}},
	{
		name: "large file over symlink to victim", attacks: "open that follows, for large files",
		in: []ent{symlink("l", "../../out/victim"), file("l", bigContent(3<<20))}, want: []string{"l - 3145728 bytes"},
	},
	{name: "directory over symlink", attacks: "mkdir that accepts a link", in: []ent{symlink("l", "../../out"), dir("l"), file("l/x", "x")}, want: []string{"l/", "l/x - x"}},
	{
		name: "symlink over directory", attacks: "cached data of a replaced directory",
		in:   []ent{file("d/x", "x"), symlink("d", "../../out"), file("d/evil", "y")},
		want: []string{"d -> ../../out", "out/", "out/evil - y"},
	},
	{
		name: "symlink that changes its mind", attacks: "cached target of a replaced link",
		in:   []ent{symlink("l", "a"), file("l/x", "1"), symlink("l", "../../out"), file("l/x", "2"), symlink("l", "b"), file("l/x", "3")},
		want: []string{"a/", "a/x - 1", "b/", "b/x - 3", "l -> b", "out/", "out/x - 2"},
	},
	{
		name: "fifo, device or symlink over symlink", attacks: "nodes made through a link",
		in:   []ent{symlink("l", "../../out/victim"), {name: "l", kind: tar.TypeFifo}, symlink("m", "../../out"), symlink("m", "x")},
		want: []string{"l p---------", "m -> x"},
	},
	{
		name: "whiteout through a symlink", attacks: "removal outside", in: []ent{symlink("l", "../../out"), file("l/.wh.victim", ""), file("l/.wh..wh..opq", "")},
		want: []string{"l -> ../../out", "out/"},
	},
	{name: "symlink target too long", attacks: "the kernel's limit, late", in: []ent{symlink("l", strings.Repeat("x", 5000))}, err: ErrFormat},
	{name: "symlink without target", attacks: "a different error in each system", raw: tartest.Block(tarfile.TypeSymlink, "l", "").With("") + tartest.End, err: ErrFormat},
}

// hardLinkSpecimens are archives with hard links.
var hardLinkSpecimens = []specimen{
	{name: "hard link to outside", attacks: "a second name for a file of the host", in: []ent{hard("h", "../../out/victim")}, err: ErrUnsafe},
	{name: "hard link to the host's root", attacks: "absolute targets", in: []ent{hard("h", "/etc/passwd")}, err: ErrFormat},
	{name: "hard link through symlink", attacks: "a link on the way to the target", in: []ent{symlink("l", "../../out"), hard("h", "l/victim")}, err: ErrFormat},
	{
		name: "hard link to symlink, then write", attacks: "open that follows the second name",
		in: []ent{symlink("l", "../../out/victim"), hard("h", "l"), file("h", "mine")}, want: []string{"h - mine", "l -> ../../out/victim"},
	},
	{
		name: "write after hard link", attacks: "truncation of a file with two names",
		in: []ent{file("f", "old"), hard("h", "f"), file("f", "new")}, want: []string{"f - new", "h - old"}, tar: true,
	},
	{name: "hard link to directory", attacks: "loops in the tree", in: []ent{dir("d"), hard("h", "d")}, err: ErrFormat},
	{name: "hard link to itself", attacks: "removal before linking", in: []ent{file("f", "x"), hard("f", "f")}, want: []string{"f - x"}, tar: true},
	{name: "hard link to itself alone", attacks: "waiting for itself", in: []ent{hard("f", "f")}, err: ErrFormat},
	{name: "hard link to nothing", attacks: "a dangling name", in: []ent{hard("h", "no/such")}, err: ErrFormat},
	{name: "hard links in a circle", attacks: "waiting for each other", in: []ent{hard("a", "b"), hard("b", "a")}, err: ErrFormat},
	{name: "hard link forward", attacks: "order", in: []ent{hard("h", "f"), hard("g", "h"), file("f", "x")}, want: []string{"f - x", "g - x", "h - x"}},
	{name: "hard link forward, replaced", attacks: "a late link over a later entry", in: []ent{hard("h", "f"), file("h", "mine"), file("f", "x")}, want: []string{"f - x", "h - mine"}},
	{name: "hard link forward, twice", attacks: "the first of two wins", in: []ent{hard("h", "f"), hard("h", "g"), file("f", "1"), file("g", "2")}, want: []string{"f - 1", "g - 2", "h - 2"}},
	{
		name: "hard link forward below what goes", attacks: "a late link into another directory",
		in: []ent{hard("d/h", "f"), file("d", "gone"), symlink("d", "../../out"), dir("d"), file("f", "x")}, want: []string{"d/", "f - x"},
	},
	{name: "hard link beyond a file", attacks: "a file taken for a directory", in: []ent{file("f", "x"), hard("h", "f/x")}, err: ErrFormat},
	{
		name: "hard link with a size", attacks: "content after an entry without content",
		raw:  tartest.File("f", "x") + tartest.Block(tarfile.TypeHardLink, "h", "12345").Put(tartest.LinkOff, "f").With("") + tartest.File("g", "y") + tartest.End,
		want: []string{"f - x", "g - y", "h - x"},
	},
}

// duplicateSpecimens are entries of one name with different types.
var duplicateSpecimens = []specimen{
	{
		name: "directory, file, symlink, directory", attacks: "cached data of an earlier entry",
		in:   []ent{file("p/a", "1"), file("p", "2"), symlink("p", "q"), dir("p"), file("p/b", "3")},
		want: []string{"p/", "p/b - 3"},
	},
	{name: "same file twice", attacks: "order among writers", in: []ent{file("f", "one"), file("f", bigContent(2<<20)), file("f", "three")}, want: []string{"f - three"}, tar: true},
	{name: "same file large last", attacks: "order among writers", in: []ent{file("f", bigContent(2<<20)), file("f", "x"), file("f", bigContent(1<<20))}, want: []string{"f - 1048576 bytes"}, tar: true},
	{name: "all types of one name", attacks: "order among writers", in: []ent{file("f", "1"), symlink("f", "x"), {name: "f", kind: tar.TypeFifo}, file("f", "2")}, want: []string{"f - 2"}, tar: true},
	{name: "directory twice", attacks: "the mode of the first", in: []ent{{name: "d", kind: tar.TypeDir, mode: 0o700}, file("d/x", "1"), {name: "d", kind: tar.TypeDir, mode: 0o751}}, want: []string{"d/", "d/x - 1"}, tar: true},
	{name: "parent is a file", attacks: "a file taken for a directory", in: []ent{file("f", "x"), file("f/y", "y")}, err: ErrFormat},
	{name: "parent is a fifo", attacks: "open that blocks", in: []ent{{name: "p", kind: tar.TypeFifo}, file("p/y", "y")}, err: ErrFormat},
	{name: "missing parents", attacks: "order", in: []ent{file("a/b/c", "x")}, want: []string{"a/", "a/b/", "a/b/c - x"}, tar: true},
	{name: "locked directory", attacks: "a mode that keeps its own files out", in: []ent{{name: "d", kind: tar.TypeDir, mode: 0o1}, file("d/e/f", "x")}, want: []string{"d/", "d/e/", "d/e/f - x"}},
}

// whiteoutSpecimens are whiteouts and other names with a special meaning.
var whiteoutSpecimens = []specimen{
	{name: "whiteout of parent", attacks: "removal above", in: []ent{file("a/.wh...", "")}, err: ErrUnsafe},
	{name: "whiteout of itself", attacks: "removal of the directory", in: []ent{file("a/.wh..", "")}, err: ErrUnsafe},
	{name: "whiteout of nothing", attacks: "an empty name", in: []ent{file(".wh.", "")}, err: ErrUnsafe},
	{
		name: "AUFS bookkeeping", attacks: "names that are not content", in: []ent{file(".wh..wh.plnk/1.2", ""), file(".wh..wh.aufs", "")},
		want: []string{".wh..wh.plnk/", ".wh..wh.plnk/1.2 -"},
	},
	{name: "whiteouts of other types", attacks: "nodes left behind", in: []ent{dir(".wh.d"), symlink(".wh.s", "x"), hard(".wh.h", "x"), {name: ".wh.p", kind: tar.TypeFifo}}, want: nil},
	{name: "overlay whiteout smuggled in", attacks: "removal without a whiteout", in: []ent{{name: "w", kind: tar.TypeChar}}, want: nil},
	{
		name: "overlay marks smuggled in", attacks: "redirect a directory of the mount", want: []string{"d/", "d/f - x"},
		in: []ent{{name: "d", kind: tar.TypeDir, pax: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.overlay.redirect": "/etc"}}, file("d/f", "x")},
	},
}

// numberSpecimens are archives with wrong or unusual numbers.
var numberSpecimens = []specimen{
	{name: "lying size", attacks: "room for a terabyte", in: []ent{{name: "f", body: "x", size: 1 << 41}}, err: ErrLimit},
	{name: "size beyond the end", attacks: "a file that stops early", in: []ent{{name: "f", body: "x", size: 5000}}, err: ErrFormat},
	{name: "negative size", attacks: "lengths below zero", raw: tartest.Block(tarfile.TypeFile, "f", "").Put(tartest.SizeOff, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf0").With("") + tartest.End, err: ErrFormat},
	{name: "negative size by pax", attacks: "lengths below zero", raw: tartest.Records(tarfile.TypePax, "size", "-512") + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "size beyond 63 bits", attacks: "overflow", raw: tartest.Block(tarfile.TypeFile, "f", "").Put(tartest.SizeOff, "\x80\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff").With("") + tartest.End, err: ErrFormat},
	{name: "largest size", attacks: "overflow when padded", raw: tartest.Records(tarfile.TypePax, "size", "9223372036854775807") + tartest.File("f", "x") + tartest.End, err: ErrLimit},
	{name: "largest size of no file", attacks: "overflow when skipped", raw: tartest.Records(tarfile.TypePax, "size", "9223372036854775807") + tartest.Block('Z', "f", "").With("") + tartest.End, err: ErrLimit},
	{name: "size in base 256", attacks: "readers that know octal only", raw: tartest.Block(tarfile.TypeFile, "f", "").Put(tartest.SizeOff, tartest.Base256(12, 1)).With("x") + tartest.End, want: []string{"f - x"}, tar: true},
	{name: "time before 1970", attacks: "unsigned times", raw: tartest.Records(tarfile.TypePax, "mtime", "-1.25") + tartest.File("f", "x") + tartest.End, want: []string{"f - x"}, tar: true},
	{name: "time in base 256", attacks: "unsigned times", raw: tartest.Block(tarfile.TypeFile, "f", "x").Put(tartest.MtimeOff, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00").With("x") + tartest.End, want: []string{"f - x"}, tar: true},
	{name: "time out of range", attacks: "overflow", raw: tartest.Records(tarfile.TypePax, "mtime", "99999999999999999999") + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "time at the end of time", attacks: "overflow in nanoseconds", raw: tartest.Records(tarfile.TypePax, "mtime", "9223372036854775807.999999999") + tartest.File("f", "x") + tartest.End, want: []string{"f - x"}},
	{name: "malformed time", attacks: "parsers that stop anywhere", raw: tartest.Records(tarfile.TypePax, "mtime", "1.5e3") + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "owner out of range", attacks: "-1 leaves the owner as it is", in: []ent{{name: "f", edit: func(h *tar.Header) { h.Uid = -1 }}}, err: ErrFormat},
	{name: "owner 2^32-1 by pax", attacks: "-1 leaves the owner as it is", raw: tartest.Records(tarfile.TypePax, "uid", "4294967295") + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "owner 2^32 by pax", attacks: "root after truncation", raw: tartest.Records(tarfile.TypePax, "uid", "4294967296") + tartest.File("f", "x") + tartest.End, err: ErrFormat},
	{name: "letters in a number", attacks: "parsers that stop anywhere", raw: tartest.Block(tarfile.TypeFile, "f", "x").Put(tartest.SizeOff, "00000000z01").With("x") + tartest.End, err: ErrFormat},
	{name: "device out of range", attacks: "bits of other devices", in: []ent{{name: "w", kind: tar.TypeChar, edit: func(h *tar.Header) { h.Devmajor = 1 << 20 }}}, err: ErrFormat},
	{name: "signed checksum", attacks: "readers that know one sum only", raw: signedFile() + tartest.End, want: []string{"\xe9 - x"}, tar: true},
	{name: "wrong checksum", attacks: "damage", raw: strings.Replace(tartest.File("f", "x"), "f\x00", "g\x00", 1) + tartest.End, err: ErrFormat},
}

func signedFile() string {
	b := tartest.Block(tarfile.TypeFile, "\xe9", "x")
	tartest.SignSigned(b[:])
	return string(b[:]) + tartest.Padded("x")
}
