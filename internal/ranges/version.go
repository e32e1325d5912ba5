//penstock:pure

package ranges

import (
	"strings"
	"time"
)

// A pin is a validator of one version of an object, as a string: its kind, a colon,
// and the value. Pins of a kind that is not here are opaque.
const (
	// PinETag is the kind of an entity tag in the spelling of the answer that it
	// comes from.
	PinETag = "etag:"
	// PinModified is the kind of a time of last change in HTTP's form (RFC 9110
	// section 5.6.7), for objects without an entity tag.
	PinModified = "modified:"
)

// SamePin reports whether two pins name the same version. Entity tags are compared
// in their normal form, see [SameETag].
func SamePin(a, b string) bool {
	if a == b {
		return true
	}
	ta, ok := strings.CutPrefix(a, PinETag)
	if !ok {
		return false
	}
	tb, ok := strings.CutPrefix(b, PinETag)
	return ok && SameETag(ta, tb)
}

// SameETag reports whether two spellings of an entity tag mean the same version:
// some stores leave out the quotes in listings, and proxies mark a tag as weak
// (W/"...") when they might compress the body, which the engine never asks for.
// The empty tag is none and equals nothing.
func SameETag(a, b string) bool {
	tag := opaqueTag(a)
	return tag != "" && tag == opaqueTag(b)
}

// opaqueTag returns a tag without weakness and quotes.
func opaqueTag(s string) string {
	s = strings.TrimSpace(s)
	if rest, ok := strings.CutPrefix(s, "W/"); ok {
		s = rest
	}
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	return s
}

// Version is what a listing or an answer tells of one version of an object.
type Version struct {
	ETag     string // "" if the store gave none
	Modified time.Time
	Size     int64
}

// Same reports whether two answers are about the same version. Entity tags decide
// if both have one; else size and time do. HTTP dates have whole seconds and
// listings have fractions, so a time is compared to the second.
func (v Version) Same(w Version) bool {
	if v.ETag != "" && w.ETag != "" {
		return SameETag(v.ETag, w.ETag)
	}
	return v.Size == w.Size && v.Modified.Unix() == w.Modified.Unix()
}
