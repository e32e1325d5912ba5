package untar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxSpecial bounds the extended headers and long names of one entry, in bytes:
// room for the 64 KiB attributes that Linux allows, a few times over.
const maxSpecial = 1 << 20

var zeros [sector]byte

// reader reads the entries of an archive: version 7, POSIX ustar and pax, GNU and
// star. It is ours because the extraction wants the content where it lies, the maps
// of sparse files instead of their zeros, and headers without garbage.
type reader struct {
	stream
	hdr    header
	global pax
	rest   int64 // bytes of the current entry that were not taken
	start  int64 // where the header began
	pad    int64 // bytes between its content and the next header

	mem  *ledger // unless nil, is charged with maps of sparse files
	maps int64   // what it was charged with for the current entry

	between func(at int64) error // unless nil, called between two entries
}

// next goes to the next entry; what was not read of the last one is skipped.
// The header is valid until the next call. io.EOF: the archive has ended.
func (r *reader) next(ctx context.Context) (*header, error) {
	local := r.global.defaults()
	r.mem.refund(r.maps)
	r.maps = 0
	var longName, longLink string
	for first := true; ; first = false {
		if err := r.skip(ctx, r.rest); err != nil {
			return nil, err
		}
		// A writer that forgot the end may have forgotten the last padding too.
		if err := r.skip(ctx, r.pad); err != nil && !errors.Is(err, errEnd) {
			return nil, err
		}
		r.rest, r.pad = 0, 0
		r.start = r.pos
		if first && r.between != nil {
			if err := r.between(r.pos); err != nil {
				return nil, err
			}
		}
		b, err := r.sector(ctx)
		if err != nil {
			return nil, err
		}
		if b[0] == 0 && bytes.Equal(b, zeros[:]) {
			return nil, r.end(ctx)
		}
		h := &r.hdr
		if err := parseHeader(b, h); err != nil {
			return nil, r.at(err)
		}
		switch h.flag {
		case typePax:
			local = r.global.defaults()
			err = r.pax(ctx, &local)
		case typePaxGlobal:
			err = r.globals(ctx)
			local = r.global.defaults()
		case typeGNUName:
			longName, err = r.longName(ctx)
		case typeGNULink:
			longLink, err = r.longName(ctx)
		default:
			if err = r.entry(ctx, b, &local, longName, longLink); err == nil {
				return h, nil
			}
		}
		if err != nil {
			return nil, r.at(err)
		}
	}
}

// whole reports whether what is left of the entry lies together in memory.
func (r *reader) whole() bool { return r.rest <= int64(len(r.left)) }

// content returns up to most bytes of the entry, and the piece that they lie in.
func (r *reader) content(ctx context.Context, most int64) ([]byte, *piece, error) {
	if r.rest == 0 || most == 0 {
		return nil, nil, nil
	}
	b, p, err := r.take(ctx, min(most, r.rest))
	r.rest -= int64(len(b))
	return b, p, err
}

// at says where in the stream something is wrong: between entries there is no
// name to tell.
func (r *reader) at(err error) error {
	return fmt.Errorf("at byte %d of the archive: %w", r.start, err)
}

// end is the end of the archive: two blocks of zeros, of which many a writer
// forgets one.
func (r *reader) end(ctx context.Context) error {
	b, err := r.sector(ctx)
	if err == nil && !bytes.Equal(b, zeros[:]) {
		return r.at(badf("a block of zeros, and then no end"))
	}
	if err == nil {
		err = io.EOF
	}
	return err
}

// entry completes the header of an entry with what was said before it, and sets
// out to read its content.
func (r *reader) entry(ctx context.Context, b []byte, local *pax, longName, longLink string) error {
	h := &r.hdr
	if err := local.apply(h); err != nil {
		return err
	}
	if longName != "" {
		h.name = longName
	}
	if longLink != "" {
		h.link = longLink
	}
	if !h.hasContent() {
		h.stored, h.size = 0, 0
	}
	stored := h.stored
	if h.flag == typeGNUSparse {
		more := func() ([]byte, error) {
			if err := r.chargeMap(len(h.extents)); err != nil {
				return nil, err
			}
			return r.sector(ctx)
		}
		if err := h.gnuSparseMap(b, more); err != nil {
			return unexpected(err)
		}
	} else if inContent, err := local.applySparse(h); err != nil {
		return err
	} else if inContent {
		if err := r.sparseMap(ctx, h); err != nil {
			return err
		}
	} else if err := r.chargeMap(len(h.extents)); err != nil {
		return err
	}
	// Tars before POSIX wrote directories as files whose name ends in a slash.
	if h.isRegular() && strings.HasSuffix(h.name, "/") {
		if h.flag == typeFileOld {
			h.stored, stored = 0, 0 // truly old: what follows is a header
		}
		h.flag, h.size, h.sparse = typeDir, 0, false
	}
	r.rest, r.pad = h.stored, padding(stored)
	return nil
}

// padding is what fills the last block of n bytes.
func padding(n int64) int64 { return -n & (sector - 1) }

// sparseMap reads the map of GNU's format 1.0: decimal numbers, one a line, before
// the content: how many extents, then offset and length of each.
func (r *reader) sparseMap(ctx context.Context, h *header) error {
	stored := h.stored
	var text []byte
	number := func() (int64, error) {
		i := bytes.IndexByte(text, '\n')
		for i < 0 {
			if h.stored < sector {
				return 0, badf("sparse map does not end")
			}
			if len(text) > 20 { // digits of the largest number, and its line end
				return 0, badf("sparse map holds no numbers")
			}
			b, err := r.sector(ctx)
			if err != nil {
				return 0, unexpected(err)
			}
			h.stored -= sector
			text = append(text, b...)
			i = bytes.IndexByte(text, '\n')
		}
		digits := string(text[:i])
		text = text[i+1:]
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 0 {
			return 0, badf("sparse map holds %q", shorten(digits))
		}
		return n, nil
	}
	count, err := number()
	if err != nil {
		return err
	}
	if count > maxExtents {
		return tooManyExtents()
	}
	if count > stored/4 { // two digits and two line ends for each
		return badf("sparse map of %d pieces in %d bytes", count, stored)
	}
	if err := r.chargeMap(int(count)); err != nil {
		return err
	}
	h.extents = make([]extent, count)
	for i := range h.extents {
		e := &h.extents[i]
		if e.off, err = number(); err == nil {
			e.n, err = number()
		}
		if err != nil {
			return err
		}
	}
	return h.checkExtents()
}

// chargeMap charges the map of a sparse file of so many pieces.
func (r *reader) chargeMap(pieces int) error {
	const pieceBytes = 16
	more := pieceBytes*int64(pieces) - r.maps
	if more <= 0 {
		return nil
	}
	err := r.mem.charge(more)
	if err == nil {
		r.maps += more
	}
	return err
}

// special reads the content of an entry that describes others.
func (r *reader) special(ctx context.Context) (string, error) {
	n := r.hdr.stored
	if n > maxSpecial || n < 0 {
		return "", fmt.Errorf("%w: extended header of %d bytes, at most %d allowed", ErrLimit, n, maxSpecial)
	}
	buf := make([]byte, 0, n)
	for int64(len(buf)) < n {
		b, _, err := r.take(ctx, n-int64(len(buf)))
		if err != nil {
			return "", err
		}
		buf = append(buf, b...)
	}
	r.pad = padding(n)
	return string(buf), nil
}

func (r *reader) pax(ctx context.Context, p *pax) error {
	text, err := r.special(ctx)
	if err == nil {
		err = p.parse(text)
	}
	return err
}

// globals takes defaults for all entries that follow.
func (r *reader) globals(ctx context.Context) error {
	err := r.pax(ctx, &r.global)
	if err == nil && (r.global.has&framing != 0 || len(r.global.extents) > 0) {
		err = badf("a global header gives a name or a size to all entries")
	}
	return err
}

func (r *reader) longName(ctx context.Context) (string, error) {
	text, err := r.special(ctx)
	name, _, _ := strings.Cut(text, "\x00")
	return name, err
}
