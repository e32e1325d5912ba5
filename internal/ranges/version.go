//penstock:pure

package ranges

import (
	"strings"
	"time"
)

// A pin is a validator of one version of an object, as a string of its kind, a
// colon and the value. Pins of other kinds than these are opaque.
const (
	// PinETag is the kind of an entity tag, in the spelling of its answer.
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

// SameETag reports whether two spellings of an entity tag mean the same version.
// It ignores quotes, which some stores leave out in listings, and weakness, because
// a proxy marks a tag as weak (W/"...") if it may compress the body, which the
// engine never requests. An empty tag is not the same as any tag.
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

// Version describes one version of an object, as a listing or an answer does.
type Version struct {
	ETag     string // "" if the store gave none
	Modified time.Time
	Size     int64
}

// Same reports whether v and w are the same version. Entity tags decide if both
// have one; otherwise size and time do. Times are compared in whole seconds,
// because HTTP dates have no fractions and listings have some.
func (v Version) Same(w Version) bool {
	if v.ETag != "" && w.ETag != "" {
		return SameETag(v.ETag, w.ETag)
	}
	return v.Size == w.Size && v.Modified.Unix() == w.Modified.Unix()
}
