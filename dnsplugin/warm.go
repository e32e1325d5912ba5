package dnsplugin

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/store"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// A snapshot is a file with the entries of the cache, from which the next
// process starts warm:
//
//	magic, with a version | entries | SHA-256 of all before
//
// Each entry is a head of fixed size, the wildcard, the extended errors and the
// message. Times are by the wall clock. A snapshot is checked like an answer
// from the network; one that is damaged or of another version is ignored whole.

const (
	warmFamily = "penstock-warm-"
	warmMagic  = warmFamily + "1\n"
	// warmEvery is the time between two snapshots, and so the most that is lost
	// when the process is killed. Writing 32 MiB takes a few milliseconds.
	warmEvery = 5 * time.Minute

	warmHead    = 1 + 1 + 8 + 8 + 4 + 4 + 1 + 1 + 2
	warmLongest = warmHead + 255 + 255 + 1<<16 - 1

	// warmBuffer is the size of the buffers for reading and writing. With one
	// entry and its parts, a snapshot takes less than 1 MiB of memory in addition
	// to the cache, however large the cache is.
	warmBuffer = 64 << 10
)

const (
	warmDenial    = 1 << 0
	warmAnswering = 1 << 1
)

var errWarm = errors.New("not a usable snapshot")

// writeSnapshot writes all entries to w, except for failures of the source,
// which may be over when the snapshot is read.
func (c *Cache) writeSnapshot(w io.Writer) error {
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), warmBuffer)
	if _, err := io.WriteString(out, warmMagic); err != nil {
		return err
	}
	now := c.now()
	var err error
	var buf []byte
	for kind, s := range c.sides.Both() {
		s.Store.Range(func(key []byte, e *store.Entry) bool {
			a := e.Answer()
			// The next denial makes the cut again.
			if e.Dead <= c.sides.Instant(now) || a.Rcode() == dns.RcodeServerFailure || isCut(key) {
				return true
			}
			buf = appendWarm(buf[:0], key[0], e, &a, c.sides.Epoch, sides.Kind(kind) == sides.Denial)
			_, err = out.Write(buf)
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	_, err = w.Write(sum.Sum(nil))
	return err
}

func appendWarm(b []byte, bits byte, e *store.Entry, a *wire.Answer, epoch time.Time, denial bool) []byte {
	var flags byte
	if denial {
		flags |= warmDenial
	}
	if e.Answering {
		flags |= warmAnswering
	}
	wildcard, ede, msg := e.Wildcard(), e.EDE(), a.Msg()
	stored := epoch.Add(time.Duration(e.Stored)).UnixNano()
	b = append(b, flags, bits)
	b = binary.BigEndian.AppendUint64(b, uint64(stored))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Dead-e.Stored))
	b = binary.BigEndian.AppendUint32(b, e.TTL)
	b = binary.BigEndian.AppendUint32(b, e.Plain)
	b = append(b, byte(len(wildcard)), byte(len(ede)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(msg)))
	b = append(b, wildcard...)
	b = append(b, ede...)
	return append(b, msg...)
}

// readSnapshot stores the entries of r, a whole snapshot of size bytes, and
// returns their number. It reads r twice, to check it and to store the entries,
// so that it stores none if the snapshot is damaged. It holds one entry in
// memory at a time.
func (c *Cache) readSnapshot(r io.ReaderAt, size int64) (int, error) {
	check := func(*warmEntry) {}
	if err := scanSnapshot(r, size, check); err != nil {
		return 0, err
	}
	kept := 0
	err := scanSnapshot(r, size, func(w *warmEntry) {
		if c.restore(w) {
			kept++
		}
	})
	return kept, err
}

// scanSnapshot calls f for each entry, before the checksum is known.
func scanSnapshot(r io.ReaderAt, size int64, f func(*warmEntry)) error {
	end := size - sha256.Size
	if end < int64(len(warmMagic)) {
		return fmt.Errorf("%w: it has %d bytes", errWarm, size)
	}
	sum := sha256.New()
	in := bufio.NewReaderSize(io.TeeReader(io.NewSectionReader(r, 0, end), sum), warmBuffer)
	var magic [len(warmMagic)]byte
	if _, err := io.ReadFull(in, magic[:]); err != nil {
		return fmt.Errorf("%w: %w", errWarm, err)
	}
	if string(magic[:]) != warmMagic {
		return fmt.Errorf("%w: it does not begin with %q", errWarm, warmMagic)
	}
	buf := make([]byte, warmHead, warmLongest)
	for at := int64(len(warmMagic)); at < end; at += int64(len(buf)) {
		buf = buf[:warmHead]
		_, err := io.ReadFull(in, buf)
		if err == nil {
			buf = buf[:warmLength(buf)]
			_, err = io.ReadFull(in, buf[warmHead:])
		}
		var w warmEntry
		if err == nil {
			w, _, err = parseWarm(buf)
		}
		if err != nil {
			return fmt.Errorf("%w: at %d: %w", errWarm, at, err)
		}
		f(&w)
	}
	var want [sha256.Size]byte
	if _, err := r.ReadAt(want[:], end); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), want[:]) {
		return fmt.Errorf("%w: the checksum does not match", errWarm)
	}
	return nil
}

// warmLength is the length of the entry that begins with head.
func warmLength(head []byte) int {
	return warmHead + int(head[26]) + int(head[27]) + int(binary.BigEndian.Uint16(head[28:]))
}

// warmEntry is an entry of a snapshot.
type warmEntry struct {
	flags, bits byte
	stored      int64 // nanoseconds of the wall clock
	life        int64 // nanoseconds until it is dead, see store.Entry.Dead
	ttl, plain  uint32
	wildcard    string
	ede         []byte
	answer      *wire.Answer
}

func parseWarm(b []byte) (w warmEntry, n int, err error) {
	if len(b) < warmHead {
		return w, 0, io.ErrUnexpectedEOF
	}
	w.flags, w.bits = b[0], b[1]
	w.stored = int64(binary.BigEndian.Uint64(b[2:]))
	w.life = int64(binary.BigEndian.Uint64(b[10:]))
	w.ttl, w.plain = binary.BigEndian.Uint32(b[18:]), binary.BigEndian.Uint32(b[22:])
	wild, size := int(b[26]), int(binary.BigEndian.Uint16(b[28:]))
	n = warmLength(b)
	if len(b) < n {
		return w, 0, io.ErrUnexpectedEOF
	}
	w.wildcard = string(b[warmHead : warmHead+wild])
	w.ede = b[warmHead+wild : n-size]
	if _, ok := edeOptions(w.ede); !ok {
		return w, 0, fmt.Errorf("extended errors %x", w.ede)
	}
	msg := b[n-size : n]
	if w.answer, _, err = wire.NewAnswer(msg); err != nil {
		return w, 0, err
	}
	// The chain must be able to unpack the message later.
	var m dns.Msg
	if err = m.Unpack(msg); err != nil {
		return w, 0, err
	}
	_, err = reply(w.answer, &m, 0, false)
	return w, n, err
}

// restore stores w if it is still alive and the configuration allows it. It
// rejects an entry from the future, whose age is unknown because the clock was
// set back.
func (c *Cache) restore(w *warmEntry) bool {
	now := c.now()
	age := now.UnixNano() - w.stored
	if w.stored <= 0 || age < 0 || w.life <= age || w.ttl > maxTTLSeconds || w.bits&^(3|store.Variant) != 0 {
		return false
	}
	s, limit := &c.sides.Success, c.cfg.Success.TTL
	if w.flags&warmDenial != 0 {
		s, limit = &c.sides.Denial, c.cfg.Denial.TTL
	}
	q := w.answer.Question()
	n := len(q) - 4
	name, _, err := dns.UnpackDomainName(q, 0)
	if err != nil || !c.responsible(name) {
		return false
	}
	key := wire.AppendKey(nil, q[:n], binary.BigEndian.Uint16(q[n:]), binary.BigEndian.Uint16(q[n+2:]), false, false)
	key[0] = w.bits
	if s.Disabled.Contain(sides.NameOf(key)) {
		return false
	}
	// The configuration may have become stricter.
	w.ttl = min(w.ttl, uint32(limit/time.Second))
	life := min(w.life, int64(time.Duration(w.ttl)*time.Second+c.cfg.Stale.UpTo))
	if life <= age {
		return false
	}
	if !wire.Cacheable(binary.BigEndian.Uint16(q[n:])) {
		return false
	}
	at := c.sides.Instant(now)
	e, _ := s.Store.Put(s.Store.Hash(key), key, store.Record{
		Answer: w.answer, Stored: at - store.Instant(age), TTL: w.ttl, Dead: at - store.Instant(age) + store.Instant(life),
		Answering: w.flags&warmAnswering != 0, Plain: int(w.plain), Wildcard: w.wildcard, EDE: w.ede,
	}, at)
	return e != nil
}

// keepWarm saves snapshots until the cache is closed, whenever mayWrite allows
// it.
func (c *Cache) keepWarm(mayWrite func(*Cache) bool) {
	log := clog.NewWithPlugin(c.name)
	c.refreshes.Go(func() {
		t := time.NewTicker(warmEvery)
		defer t.Stop()
		for {
			select {
			case <-c.life.Done():
			case <-t.C:
			case <-c.warmNow:
			}
			// Otherwise the next instance owns the file, or in an upgrade still
			// the old process.
			if mayWrite(c) {
				if err := c.saveWarm(); err != nil {
					log.Warningf("warm %s: %v; the snapshot stays as it was", c.cfg.Warm, err)
				}
			}
			if c.life.Err() != nil {
				return
			}
		}
	})
}
