package untar

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// pax is what extended headers say about an entry. A key that was not seen leaves
// the header's own value.
type pax struct {
	has        paxKey
	path, link string
	size       int64
	uid, gid   int64
	mtime      stamp
	atime      stamp
	attrs      []attr
	ownAttrs   bool           // attrs is not shared with the defaults of a global header
	attrAt     map[string]int // the place of each name in attrs, from manyAttrs on
	attrNames  int            // bytes of the names of attrs
	attrBytes  int64          // bytes of all records of attributes
	maxAttrs   int64          // limit of attrBytes; 0 or less means no limit

	// GNU's sparse formats: 0.0 and 0.1 have the map here, 1.0 before the content.
	sparseName string
	realSize   int64
	major      int64
	minor      int64
	extents    []extent
	halfExtent bool // 0.0: an offset still waits for its length
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

// framing keys decide where an entry lies and where it ends. In a global header
// each reader takes them differently, so no builder writes them there.
const framing = hasPath | hasLink | hasSize | hasSparseName | hasRealSize | hasSparseMap | hasSparseMajor | hasSparseMinor

const (
	attrPrefix   = "SCHILY.xattr."
	sparsePrefix = "GNU.sparse."
)

// parse reads the records of an extended header: "length key=value\n" each.
func (p *pax) parse(text string) error {
	for text != "" {
		digits, rest, ok := strings.Cut(text, " ")
		n, err := strconv.Atoi(digits)
		if n -= len(digits) + 1; !ok || err != nil || n < len("k=\n") || n > len(rest) || rest[n-1] != '\n' {
			return badf("extended header: no record at %q", shorten(text))
		}
		key, value, ok := strings.Cut(rest[:n-1], "=")
		if !ok || key == "" || strings.IndexByte(key, 0) >= 0 {
			return badf("extended header: %q is no record", shorten(rest[:n-1]))
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

// record takes one record. An empty value takes back what was said before.
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
		return badf("extended header: %s=%q is no number", key, shorten(value))
	}
	*to = n
	return nil
}

// time reads decimal seconds with a fraction of any length.
func (p *pax) time(to *stamp, bit paxKey, key, value string) error {
	p.mark(bit, value)
	if value == "" {
		return nil
	}
	whole, fraction, _ := strings.Cut(value, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || strings.Trim(fraction, "0123456789") != "" {
		return badf("extended header: %s=%q is no time", key, shorten(value))
	}
	const digits = 9 // of nanoseconds; finer is cut off
	nsec, _ := strconv.ParseInt((fraction + "000000000")[:digits], 10, 64)
	if strings.HasPrefix(whole, "-") && nsec > 0 { // -1.5 is half a second before -1
		sec, nsec = sec-1, 1e9-nsec
	}
	*to = stamp{sec, nsec}
	return nil
}

const (
	// maxAttrNames is XATTR_LIST_MAX of Linux: a file with more bytes of names has a list
	// that nothing can read.
	maxAttrNames = 64 << 10
	// manyAttrs is the number from which a map finds names sooner than a walk does.
	manyAttrs = 16
)

// attr keeps the last value of a name. The cost does not depend on how many there are.
func (p *pax) attr(name, value string) error {
	p.attrBytes += int64(len(name) + len(value))
	if p.maxAttrs > 0 && p.attrBytes > p.maxAttrs {
		return fmt.Errorf("%w: more than %d bytes of extended attributes for one entry (limit Attributes)", ErrLimit, p.maxAttrs)
	}
	if !p.ownAttrs {
		p.attrs, p.attrAt, p.ownAttrs = slices.Clone(p.attrs), nil, true
	}
	if i := p.findAttr(name); i >= 0 {
		p.attrs[i].value = value
		return nil
	}
	if p.attrNames += len(name) + 1; p.attrNames > maxAttrNames { // each name ends in a zero byte
		return fmt.Errorf("%w: the names of the extended attributes of one entry take more than the %d bytes that Linux can list", ErrLimit, maxAttrNames)
	}
	p.attrs = append(p.attrs, attr{name, value})
	if p.attrAt != nil {
		p.attrAt[name] = len(p.attrs) - 1
	}
	return nil
}

// findAttr returns the place of a name in attrs, or -1.
func (p *pax) findAttr(name string) int {
	if len(p.attrs) < manyAttrs {
		return slices.IndexFunc(p.attrs, func(a attr) bool { return a.name == name })
	}
	if p.attrAt == nil {
		p.attrAt = make(map[string]int, 2*len(p.attrs))
		for i, a := range p.attrs {
			p.attrAt[a.name] = i
		}
	}
	if i, ok := p.attrAt[name]; ok {
		return i
	}
	return -1
}

// defaults returns what an entry begins with below this global header.
func (p *pax) defaults() pax {
	d := *p
	d.ownAttrs, d.attrAt = false, nil
	return d
}

// attrName undoes how GNU tar writes the two characters that a record's key can
// not hold.
func attrName(name string) string {
	if strings.IndexByte(name, '%') < 0 {
		return name
	}
	return strings.ReplaceAll(strings.ReplaceAll(name, "%3D", "="), "%25", "%")
}

// sparse takes the records of GNU's sparse formats.
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
		p.extents, p.halfExtent = append(p.extents, extent{off: n}), true
	case "numbytes":
		if !p.halfExtent {
			return badf("extended header: sparse map has a length without an offset")
		}
		err = p.number(&n, hasSparseMap, key, value)
		p.extents[len(p.extents)-1].n, p.halfExtent = n, false
	case "map":
		p.mark(hasSparseMap, value)
		p.extents, err = parseSparseMap(value)
	}
	return err
}

// parseSparseMap reads "offset,length,offset,length".
func parseSparseMap(text string) ([]extent, error) {
	var out []extent
	for text != "" {
		var pair [2]int64
		for i := range pair {
			digits, rest, _ := strings.Cut(text, ",")
			n, err := strconv.ParseInt(digits, 10, 64)
			if err != nil {
				return nil, badf("extended header: sparse map holds %q", shorten(digits))
			}
			pair[i], text = n, rest
		}
		out = append(out, extent{pair[0], pair[1]})
	}
	return out, nil
}

// apply puts what was said into a header.
func (p *pax) apply(h *header) error {
	if p.has&hasPath != 0 {
		h.name = p.path
	}
	if p.has&hasLink != 0 {
		h.link = p.link
	}
	if p.has&hasSize != 0 {
		h.stored = p.size
	}
	if p.has&hasUID != 0 {
		h.uid = p.uid
	}
	if p.has&hasGID != 0 {
		h.gid = p.gid
	}
	if p.has&hasMtime != 0 {
		h.mtime = p.mtime
		h.atime = p.mtime
	}
	if p.has&hasAtime != 0 {
		h.atime = p.atime
	}
	h.attrs = p.attrs
	h.size = h.stored
	if h.stored < 0 {
		return badf("negative size %d", h.stored)
	}
	return nil
}

// applySparse turns h into a sparse file when the records say so. It reports
// whether the map comes before the content.
func (p *pax) applySparse(h *header) (inContent bool, err error) {
	const version = hasSparseMajor | hasSparseMinor
	switch {
	case !h.isRegular() || p.has&(version|hasSparseMap) == 0:
		return false, nil
	case p.has&version == 0, p.has&version == version && p.major == 0 && p.minor <= 1: // 0.x may say so
	case p.has&version == version && p.major == 1 && p.minor == 0:
		inContent = true
	default: // as an ordinary file it would have wrong content
		return false, badf("sparse file of an unknown format (%d.%d)", p.major, p.minor)
	}
	if p.has&hasSparseName != 0 {
		h.name = p.sparseName
	}
	if p.has&hasRealSize == 0 || p.realSize < 0 {
		return false, badf("sparse file without its size")
	}
	h.sparse, h.size = true, p.realSize
	if inContent {
		return true, nil
	}
	if len(p.extents) > maxExtents {
		return false, tooManyExtents()
	}
	h.extents = slices.Clone(p.extents)
	return false, h.checkExtents()
}
