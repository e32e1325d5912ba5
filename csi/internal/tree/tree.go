package tree

import "strings"

// Kind tells a file from a directory.
type Kind uint8

// The kinds of a name. The zero Kind is no kind: nothing is there.
const (
	File Kind = iota + 1
	Dir
)

// String returns "file", "dir" or "none".
func (k Kind) String() string {
	switch k {
	case File:
		return "file"
	case Dir:
		return "dir"
	default:
		return "none"
	}
}

// MaxName is the longest name in bytes that Linux lets a directory entry have (NAME_MAX).
const MaxName = 255

// MaxKey is the longest key in bytes that S3 accepts.
const MaxKey = 1024

// ValidName reports whether a component can be a name: not empty, not "." or "..", no slash, no NUL, at most
// [MaxName] bytes.
func ValidName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= MaxName &&
		strings.IndexByte(name, '/') < 0 && strings.IndexByte(name, 0) < 0
}

// Child returns what a key shows directly inside the directory of prefix. Common prefixes of a LIST (which end in
// "/") and whole keys far below are both welcome. ok is false when the key is not below prefix, is the marker of the
// directory itself, or has a component there that can't be a name.
func Child(prefix, key string) (name string, kind Kind, ok bool) {
	rest, below := strings.CutPrefix(key, prefix)
	if !below {
		return "", 0, false
	}
	kind = File
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		rest, kind = rest[:i], Dir
	}
	if !ValidName(rest) {
		return "", 0, false
	}
	return rest, kind, true
}

// Key returns the key of the file, or the prefix of the directory, that a path shows below prefix. The path is
// slash-separated and relative, "." is the root (as in io/fs). ok is false when no key can show such a path.
func Key(prefix, path string, kind Kind) (key string, ok bool) {
	if path == "." {
		return prefix, kind == Dir
	}
	for component := range strings.SplitSeq(path, "/") {
		if !ValidName(component) {
			return "", false
		}
	}
	key = prefix + path
	if kind == Dir {
		key += "/"
	}
	return key, len(key) <= MaxKey
}

// CleanPrefix returns prefix as the root of a tree: empty, or ending in "/". ok is false when no key can start with it.
func CleanPrefix(prefix string) (clean string, ok bool) {
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	return prefix, len(prefix) <= MaxKey && strings.IndexByte(prefix, 0) < 0
}
