package tarfile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// pax holds the records of extended headers that describe an entry. If has
// lacks a key, the value in the entry's own header applies.
type pax struct {
	has        paxKey
	path, link string
	size       int64
	uid, gid   int64
	mtime      Time
	atime      Time
	attrs      []Attr
	ownAttrs   bool           // attrs is not shared with the global defaults
	attrAt     map[string]int // the index of each name in attrs, if there are manyAttrs
	attrNames  int            // bytes of the names in attrs
	attrBytes  int64          // bytes of all attribute records
	maxAttrs   int64          // bound on attrBytes; 0 or less means no bound

	// The sparse formats of GNU tar: 0.0 and 0.1 store the map in records, 1.0
	// stores it before the content.
	sparseName string
	realSize   int64
	major      int64
	minor      int64
	extents    []Extent
	halfExtent bool // format 0.0: the last offset has no length yet
}

// paxKey is a set of keys.
type paxKey uint16

const (
	hasPath paxKey = 1 << iota
	hasLink
	hasSize
	hasUID
	hasGID
	hasMtime
	hasAtime
	hasSparseName
	hasRealSize
	hasSparseMap
	hasSparseMajor
	hasSparseMinor
)

// framingKeys are the keys that decide the name of an entry and where it ends.
// Readers differ in how they apply them from a global header, and no image
// builder writes them there.
const framingKeys = hasPath | hasLink | hasSize | hasSparseName | hasRealSize | hasSparseMap | hasSparseMajor | hasSparseMinor

const (
	attrPrefix   = "SCHILY.xattr."
	sparsePrefix = "GNU.sparse."
)

// parse parses the records of an extended header, each "length key=value\n".
func (p *pax) parse(text string) error {
	for text != "" {
		digits, rest, ok := strings.Cut(text, " ")
		n, err := strconv.Atoi(digits)
		if n -= len(digits) + 1; !ok || err != nil || n < len("k=\n") || n > len(rest) || rest[n-1] != '\n' {
			return badf("extended header: malformed record at %q", Shorten(text))
		}
		key, value, ok := strings.Cut(rest[:n-1], "=")
		if !ok || key == "" || strings.IndexByte(key, 0) >= 0 {
			return badf("extended header: %q is not a record", Shorten(rest[:n-1]))
		}
		if err := p.record(key, value); err != nil {
			return err
		}
		text = rest[n:]
	}
	if p.halfExtent {
		return badf("extended header: sparse map ends with an offset")
	}
	return nil
}

// record applies one record. An empty value removes the earlier value of its
// key, except that an extended attribute may have an empty value.
func (p *pax) record(key, value string) error {
	switch key {
	case "path":
		p.text(&p.path, hasPath, value)
	case "linkpath":
		p.text(&p.link, hasLink, value)
	case "size":
		return p.number(&p.size, hasSize, key, value)
	case "uid":
		return p.number(&p.uid, hasUID, key, value)
	case "gid":
		return p.number(&p.gid, hasGID, key, value)
	case "mtime":
		return p.time(&p.mtime, hasMtime, key, value)
	case "atime":
		return p.time(&p.atime, hasAtime, key, value)
	}
	if name, ok := strings.CutPrefix(key, attrPrefix); ok && name != "" {
		return p.attr(attrName(name), value)
	}
	if name, ok := strings.CutPrefix(key, sparsePrefix); ok {
		return p.sparse(name, key, value)
	}
	return nil
}

func (p *pax) text(to *string, bit paxKey, value string) {
	*to = value
	p.mark(bit, value)
}

func (p *pax) mark(bit paxKey, value string) {
	if value == "" {
		p.has &^= bit
	} else {
		p.has |= bit
	}
}

func (p *pax) number(to *int64, bit paxKey, key, value string) error {
	p.mark(bit, value)
	if value == "" {
		return nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return badf("extended header: %s=%q is not a number", key, Shorten(value))
	}
	*to = n
	return nil
}

// time parses decimal seconds with a fraction of any length.
func (p *pax) time(to *Time, bit paxKey, key, value string) error {
	p.mark(bit, value)
	if value == "" {
		return nil
	}
	whole, fraction, _ := strings.Cut(value, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || strings.Trim(fraction, "0123456789") != "" {
		return badf("extended header: %s=%q is not a time", key, Shorten(value))
	}
	const digits = 9 // more precise fractions are truncated to nanoseconds
	nsec, _ := strconv.ParseInt((fraction + "000000000")[:digits], 10, 64)
	if strings.HasPrefix(whole, "-") && nsec > 0 { // -1.5 is -2 + 0.5 s
		sec, nsec = sec-1, 1e9-nsec
	}
	*to = Time{sec, nsec}
	return nil
}

const (
	// maxAttrNames is XATTR_LIST_MAX of Linux: if the names of a file take more
	// bytes, no program can list them.
	maxAttrNames = 64 << 10
	// manyAttrs is the number of attributes from which a map is faster than a
	// scan.
	manyAttrs = 16
)

// attr sets an attribute; the last value of a name wins. Its cost does not grow
// with the number of attributes.
func (p *pax) attr(name, value string) error {
	p.attrBytes += int64(len(name) + len(value))
	if p.maxAttrs > 0 && p.attrBytes > p.maxAttrs {
		return fmt.Errorf("%w: more than %d bytes of extended attributes for one entry (limit Attributes)", ErrLimit, p.maxAttrs)
	}
	if !p.ownAttrs {
		p.attrs, p.attrAt, p.ownAttrs = slices.Clone(p.attrs), nil, true
	}
	if i := p.findAttr(name); i >= 0 {
		p.attrs[i].Value = value
		return nil
	}
	if p.attrNames += len(name) + 1; p.attrNames > maxAttrNames { // each name ends in a zero byte
		return fmt.Errorf("%w: the names of the extended attributes of one entry take more than the %d bytes that Linux can list", ErrLimit, maxAttrNames)
	}
	p.attrs = append(p.attrs, Attr{name, value})
	if p.attrAt != nil {
		p.attrAt[name] = len(p.attrs) - 1
	}
	return nil
}

// findAttr returns the index of a name in attrs, or -1.
func (p *pax) findAttr(name string) int {
	if len(p.attrs) < manyAttrs {
		return slices.IndexFunc(p.attrs, func(a Attr) bool { return a.Name == name })
	}
	if p.attrAt == nil {
		p.attrAt = make(map[string]int, 2*len(p.attrs))
		for i, a := range p.attrs {
			p.attrAt[a.Name] = i
		}
	}
	if i, ok := p.attrAt[name]; ok {
		return i
	}
	return -1
}

// defaults returns the records that an entry inherits from this global header.
func (p *pax) defaults() pax {
	d := *p
	d.ownAttrs, d.attrAt = false, nil
	return d
}

// attrName decodes the two characters that GNU tar escapes because the key of a
// record cannot hold them.
func attrName(name string) string {
	if strings.IndexByte(name, '%') < 0 {
		return name
	}
	return strings.ReplaceAll(strings.ReplaceAll(name, "%3D", "="), "%25", "%")
}

// sparse applies a record of GNU's sparse formats.
func (p *pax) sparse(name, key, value string) error {
	var n int64
	var err error
	switch name {
	case "name":
		p.text(&p.sparseName, hasSparseName, value)
	case "major":
		return p.number(&p.major, hasSparseMajor, key, value)
	case "minor":
		return p.number(&p.minor, hasSparseMinor, key, value)
	case "size", "realsize":
		return p.number(&p.realSize, hasRealSize, key, value)
	case "offset":
		if p.halfExtent {
			return badf("extended header: sparse map has two offsets in a row")
		}
		err = p.number(&n, hasSparseMap, key, value)
		p.extents, p.halfExtent = append(p.extents, Extent{Off: n}), true
	case "numbytes":
		if !p.halfExtent {
			return badf("extended header: sparse map has a length without an offset")
		}
		err = p.number(&n, hasSparseMap, key, value)
		p.extents[len(p.extents)-1].Len, p.halfExtent = n, false
	case "map":
		p.mark(hasSparseMap, value)
		p.extents, err = parseSparseMap(value)
	}
	return err
}

// parseSparseMap parses "offset,length,offset,length".
func parseSparseMap(text string) ([]Extent, error) {
	var out []Extent
	for text != "" {
		var pair [2]int64
		for i := range pair {
			digits, rest, _ := strings.Cut(text, ",")
			n, err := strconv.ParseInt(digits, 10, 64)
			if err != nil {
				return nil, badf("extended header: sparse map holds %q", Shorten(digits))
			}
			pair[i], text = n, rest
		}
		out = append(out, Extent{pair[0], pair[1]})
	}
	return out, nil
}

// apply copies the records into a header.
func (p *pax) apply(h *Header) error {
	if p.has&hasPath != 0 {
		h.Name = p.path
	}
	if p.has&hasLink != 0 {
		h.Link = p.link
	}
	if p.has&hasSize != 0 {
		h.Stored = p.size
	}
	if p.has&hasUID != 0 {
		h.UID = p.uid
	}
	if p.has&hasGID != 0 {
		h.GID = p.gid
	}
	if p.has&hasMtime != 0 {
		h.Mtime = p.mtime
		h.Atime = p.mtime
	}
	if p.has&hasAtime != 0 {
		h.Atime = p.atime
	}
	h.Attrs = p.attrs
	h.Size = h.Stored
	if h.Stored < 0 {
		return badf("negative size %d", h.Stored)
	}
	return nil
}

// applySparse marks h as a sparse file if the records say so. It reports
// whether the map is stored before the content.
func (p *pax) applySparse(h *Header) (inContent bool, err error) {
	const version = hasSparseMajor | hasSparseMinor
	switch {
	case !h.IsRegular() || p.has&(version|hasSparseMap) == 0:
		return false, nil
	case p.has&version == 0, p.has&version == version && p.major == 0 && p.minor <= 1: // 0.x
	case p.has&version == version && p.major == 1 && p.minor == 0:
		inContent = true
	default: // refused, because extracting it as an ordinary file would give wrong content
		return false, badf("sparse file of an unknown format (%d.%d)", p.major, p.minor)
	}
	if p.has&hasSparseName != 0 {
		h.Name = p.sparseName
	}
	if p.has&hasRealSize == 0 || p.realSize < 0 {
		return false, badf("sparse file without its size")
	}
	h.Sparse, h.Size = true, p.realSize
	if inContent {
		return true, nil
	}
	if len(p.extents) > maxExtents {
		return false, tooManyExtents()
	}
	h.Extents = slices.Clone(p.extents)
	return false, h.checkExtents()
}
