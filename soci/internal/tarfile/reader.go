package tarfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxSpecial bounds each extended header and long name, in bytes. It leaves
// room for several of the 64 KiB attributes that Linux allows.
const maxSpecial = 1 << 20

var zeroBlock [BlockSize]byte

// Options configure a Reader.
type Options struct {
	// BeforeWait, unless nil, is called before the Reader waits for a block. It
	// must pass on all blocks that the caller still holds to the code that
	// releases them, because the stream may have no other memory. Its error
	// ends the read.
	BeforeWait func() error
	// Charge, unless nil, is called when the memory for the map of a sparse
	// file changes by delta bytes. If it returns an error for a positive delta,
	// that error ends the read.
	Charge func(delta int64) error
	// MaxAttributes bounds the extended attributes of one entry, in bytes of
	// names and values. 0 or less means no bound.
	MaxAttributes int64
	// Offset is the position in the archive at which the stream starts.
	// Messages and Between count from it.
	Offset int64
}

// Reader reads the entries of an archive. One goroutine may use it at a time.
type Reader struct {
	stream

	// Between, unless nil, is called before each entry with its offset in the
	// archive. Its error ends the read. The field may be changed between calls,
	// even by the function itself.
	Between func(offset int64) error

	hdr          Header
	global       pax
	contentLeft  int64 // bytes of the entry's content that were not read
	headerOffset int64 // offset of the header
	padding      int64 // bytes between the content and the next header

	charge  func(int64) error // nil if maps are not charged
	charged int64             // bytes charged for the map of the current entry
}

// NewReader returns a Reader of the archive that src holds from opts.Offset on.
func NewReader(src BlockReader, opts Options) *Reader {
	r := &Reader{charge: opts.Charge}
	r.src, r.beforeWait, r.pos = src, opts.BeforeWait, opts.Offset
	if r.beforeWait == nil {
		r.beforeWait = func() error { return nil }
	}
	r.global.maxAttrs = opts.MaxAttributes
	return r
}

// Close releases the current block.
func (r *Reader) Close() { r.close() }

// Header returns the header that was read last. It may be incomplete after an
// error.
func (r *Reader) Header() *Header { return &r.hdr }

// Piece returns the block that holds the bytes that Content returned last.
func (r *Reader) Piece() *Piece { return r.cur }

// HasDefaults reports whether a global header has set defaults for all further
// entries.
func (r *Reader) HasDefaults() bool { return r.global.has != 0 || len(r.global.attrs) > 0 }

// Next skips the rest of the current entry and returns the header of the next
// one, which is valid until the next call, or io.EOF at the end of the archive.
func (r *Reader) Next(ctx context.Context) (*Header, error) {
	local := r.global.defaults()
	if r.charged > 0 {
		_ = r.charge(-r.charged) // freeing memory does not fail
		r.charged = 0
	}
	var longName, longLink string
	for first := true; ; first = false {
		if err := r.skip(ctx, r.contentLeft); err != nil {
			return nil, err
		}
		// A writer that leaves out the end of the archive may also leave out
		// the padding of the last entry.
		if err := r.skip(ctx, r.padding); err != nil && !errors.Is(err, errTruncated) {
			return nil, err
		}
		r.contentLeft, r.padding = 0, 0
		r.headerOffset = r.pos
		if first && r.Between != nil {
			if err := r.Between(r.pos); err != nil {
				return nil, err
			}
		}
		b, err := r.block(ctx)
		if err != nil {
			return nil, err
		}
		if b[0] == 0 && bytes.Equal(b, zeroBlock[:]) {
			return nil, r.checkEnd(ctx)
		}
		h := &r.hdr
		if err := parseHeader(b, h); err != nil {
			return nil, r.at(err)
		}
		switch h.Type {
		case TypePax:
			local = r.global.defaults()
			err = r.readPax(ctx, &local)
		case TypePaxGlobal:
			err = r.readGlobals(ctx)
			local = r.global.defaults()
		case TypeGNUName:
			longName, err = r.readLongName(ctx)
		case TypeGNULink:
			longLink, err = r.readLongName(ctx)
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

// Whole reports whether the next call of Content can return all remaining
// content at once.
func (r *Reader) Whole() bool { return r.contentLeft <= int64(len(r.left)) }

// Content returns the next bytes of the entry's content, at most the given
// number, and the piece that holds them. They stay valid until the next call,
// or until a caller that holds the piece drops it. At the end of the content it
// returns no bytes.
func (r *Reader) Content(ctx context.Context, most int64) ([]byte, *Piece, error) {
	if r.contentLeft == 0 || most == 0 {
		return nil, nil, nil
	}
	b, p, err := r.takeBytes(ctx, min(most, r.contentLeft))
	r.contentLeft -= int64(len(b))
	return b, p, err
}

// at adds the offset to an error, because an error between two entries has no
// name.
func (r *Reader) at(err error) error {
	return fmt.Errorf("at byte %d of the archive: %w", r.headerOffset, err)
}

// checkEnd checks the second of the two blocks of zeros that end an archive.
// Many writers leave it out.
func (r *Reader) checkEnd(ctx context.Context) error {
	b, err := r.block(ctx)
	if err == nil && !bytes.Equal(b, zeroBlock[:]) {
		return r.at(badf("data follows a block of zeros"))
	}
	if err == nil {
		err = io.EOF
	}
	return err
}

// entry completes the header of an entry with the records and long names that
// precede it, and reads its sparse map.
func (r *Reader) entry(ctx context.Context, b []byte, local *pax, longName, longLink string) error {
	h := &r.hdr
	if err := local.apply(h); err != nil {
		return err
	}
	if longName != "" {
		h.Name = longName
	}
	if longLink != "" {
		h.Link = longLink
	}
	if !h.hasContent() {
		h.Stored, h.Size = 0, 0
	}
	stored := h.Stored
	if h.Type == TypeGNUSparse {
		more := func() ([]byte, error) {
			if err := r.chargeMap(len(h.Extents)); err != nil {
				return nil, err
			}
			return r.block(ctx)
		}
		if err := h.gnuSparseMap(b, more); err != nil {
			return truncated(err)
		}
	} else if inContent, err := local.applySparse(h); err != nil {
		return err
	} else if inContent {
		if err := r.readSparseMap(ctx, h); err != nil {
			return err
		}
	} else if err := r.chargeMap(len(h.Extents)); err != nil {
		return err
	}
	// Before POSIX, tars stored a directory as a file whose name ends in a
	// slash.
	if h.IsRegular() && strings.HasSuffix(h.Name, "/") {
		if h.Type == TypeFileV7 {
			h.Stored, stored = 0, 0 // version 7: no content follows
		}
		h.Type, h.Size, h.Sparse = TypeDir, 0, false
	}
	r.contentLeft, r.padding = h.Stored, padding(stored)
	return nil
}

// padding returns the number of bytes that fill the last block of n bytes.
func padding(n int64) int64 { return -n & (BlockSize - 1) }

// readSparseMap reads the map of GNU's format 1.0, which precedes the content.
// Each line is a decimal number: the number of extents, then offset and length
// of each.
func (r *Reader) readSparseMap(ctx context.Context, h *Header) error {
	stored := h.Stored
	var text []byte
	number := func() (int64, error) {
		i := bytes.IndexByte(text, '\n')
		for i < 0 {
			if h.Stored < BlockSize {
				return 0, badf("sparse map does not end")
			}
			if len(text) > 20 { // the digits of the largest number and a newline
				return 0, badf("sparse map holds no numbers")
			}
			b, err := r.block(ctx)
			if err != nil {
				return 0, truncated(err)
			}
			h.Stored -= BlockSize
			text = append(text, b...)
			i = bytes.IndexByte(text, '\n')
		}
		digits := string(text[:i])
		text = text[i+1:]
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 0 {
			return 0, badf("sparse map holds %q", Shorten(digits))
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
	if count > stored/4 { // each takes two digits and two newlines at least
		return badf("sparse map of %d extents in %d bytes", count, stored)
	}
	if err := r.chargeMap(int(count)); err != nil {
		return err
	}
	h.Extents = make([]Extent, count)
	for i := range h.Extents {
		e := &h.Extents[i]
		if e.Off, err = number(); err == nil {
			e.Len, err = number()
		}
		if err != nil {
			return err
		}
	}
	return h.checkExtents()
}

// chargeMap charges the memory for a sparse map of the given number of extents.
func (r *Reader) chargeMap(extents int) error {
	const extentBytes = 16
	more := extentBytes*int64(extents) - r.charged
	if more <= 0 || r.charge == nil {
		return nil
	}
	err := r.charge(more)
	if err == nil {
		r.charged += more
	}
	return err
}

// readSpecial reads the content of an extended header or long name.
func (r *Reader) readSpecial(ctx context.Context) (string, error) {
	n := r.hdr.Stored
	if n > maxSpecial || n < 0 {
		return "", fmt.Errorf("%w: extended header of %d bytes, at most %d allowed", ErrLimit, n, maxSpecial)
	}
	buf := make([]byte, 0, n)
	for int64(len(buf)) < n {
		b, _, err := r.takeBytes(ctx, n-int64(len(buf)))
		if err != nil {
			return "", err
		}
		buf = append(buf, b...)
	}
	r.padding = padding(n)
	return string(buf), nil
}

func (r *Reader) readPax(ctx context.Context, p *pax) error {
	text, err := r.readSpecial(ctx)
	if err == nil {
		err = p.parse(text)
	}
	return err
}

// readGlobals reads a global header: defaults for all entries that follow.
func (r *Reader) readGlobals(ctx context.Context) error {
	err := r.readPax(ctx, &r.global)
	if err == nil && (r.global.has&framingKeys != 0 || len(r.global.extents) > 0) {
		err = badf("a global header sets the name or the size of all entries")
	}
	return err
}

func (r *Reader) readLongName(ctx context.Context) (string, error) {
	text, err := r.readSpecial(ctx)
	name, _, _ := strings.Cut(text, "\x00")
	return name, err
}
