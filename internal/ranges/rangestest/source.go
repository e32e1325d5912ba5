package rangestest

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/minio/crc64nvme"

	"github.com/penstock/penstock/internal/ranges"
)

// Action describes the answer to one request.
type Action struct {
	Err       error         // Open fails with it
	Delay     time.Duration // before the answer
	StallAt   int64         // bytes of the body before the Stall
	Stall     time.Duration // how long the body is silent
	CutAt     int64         // bytes of the body before the Cut
	Cut       bool          // the body breaks
	Whole     bool          // the answer is the whole object
	WrongOff  int64         // offset error of the answer's range
	OtherPin  string        // validator of the answer
	NoPin     bool          // answer without a validator
	Short     int64         // number of bytes missing at the end of the answer
	Clip      int64         // largest answer in bytes; 0 means no bound
	OtherSize *int64        // size of the object in the answer; with Whole also of the body
	NoLength  bool          // a Whole answer has no length
	Extra     int64         // zeros after a NoLength answer; a negative number of bytes is missing
	BytesRate int64         // bytes a second; 0 means no limit
}

// Source serves Data. Its zero value with Data set has no faults.
type Source struct {
	Data []byte
	Pin  string
	Sum  ranges.ChecksumAlgorithm // part of every answer
	// HideSize makes all answers have Size -1.
	HideSize bool
	// Fault returns the action for request number n, which starts at 0. Nil means
	// no faults.
	Fault func(n int, req ranges.Request) Action

	mu       sync.Mutex
	requests []ranges.Request
	sent     int64
	running  int
	peak     int
}

var errReset = errors.New("connection reset by peer")

// Random returns n bytes that depend on seed.
func Random(n int, seed uint64) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	_, _ = r.Read(p)
	return p
}

// Requests returns all requests in the order of their arrival.
func (s *Source) Requests() []ranges.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]ranges.Request(nil), s.requests...)
}

// Sent returns the number of bytes that bodies have yielded.
func (s *Source) Sent() int64 { s.mu.Lock(); defer s.mu.Unlock(); return s.sent }

// Peak returns the largest number of concurrent requests.
func (s *Source) Peak() int { s.mu.Lock(); defer s.mu.Unlock(); return s.peak }

// Running returns the number of requests whose bodies are not closed.
func (s *Source) Running() int { s.mu.Lock(); defer s.mu.Unlock(); return s.running }

func (s *Source) begin(req ranges.Request) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, req)
	s.running++
	s.peak = max(s.peak, s.running)
	return len(s.requests) - 1
}

func (s *Source) end() { s.mu.Lock(); s.running--; s.mu.Unlock() }

// Open implements ranges.Source.
func (s *Source) Open(ctx context.Context, req ranges.Request) (io.ReadCloser, ranges.Info, error) {
	none := ranges.Info{Size: -1}
	n := s.begin(req)
	var act Action
	if s.Fault != nil {
		act = s.Fault(n, req)
	}
	if err := pause(ctx, act.Delay); err != nil {
		s.end()
		return nil, none, err
	}
	size := int64(len(s.Data))
	switch {
	case act.Err != nil:
		s.end()
		return nil, none, act.Err
	case req.Pin != "" && s.Pin != "" && !ranges.SamePin(req.Pin, s.Pin):
		s.end()
		return nil, none, &ranges.Fault{Kind: ranges.Changed, Status: 412}
	case req.Off >= size && !act.Whole:
		s.end()
		if s.HideSize {
			size = -1
		}
		return nil, ranges.Info{Size: size}, &ranges.Fault{Kind: ranges.OutOfRange, Status: 416}
	}
	info := ranges.Info{Size: size, Off: req.Off, Len: min(req.Len, size-req.Off), Pin: s.Pin, Sum: s.Checksum()}
	if act.Whole {
		info.Off, info.Len = 0, size
	}
	data := s.Data[info.Off : info.Off+info.Len]
	if act.OtherPin != "" {
		info.Pin = act.OtherPin
	}
	if act.NoPin {
		info.Pin = ""
	}
	if s.HideSize {
		info.Size = -1
	}
	info.Off += act.WrongOff
	info.Len -= act.Short
	if act.Clip > 0 {
		info.Len = min(info.Len, act.Clip)
	}
	if act.OtherSize != nil {
		info.Size = *act.OtherSize
		if act.Whole {
			info.Len = *act.OtherSize
			data = make([]byte, info.Len)
		}
	}
	data = data[:info.Len]
	if act.NoLength {
		info.Size, info.Len = -1, -1
		data = append(data[:len(data)+int(min(act.Extra, 0)):len(data)], make([]byte, max(act.Extra, 0))...)
	}
	return &body{s: s, ctx: ctx, r: bytes.NewReader(data), act: act}, info, nil
}

// Checksum returns the checksum of Data.
func (s *Source) Checksum() ranges.Checksum {
	switch s.Sum {
	case ranges.CRC32C:
		return ranges.Checksum{Algorithm: s.Sum, Value: uint64(crc32.Checksum(s.Data, crc32.MakeTable(crc32.Castagnoli)))}
	case ranges.CRC64NVME:
		return ranges.Checksum{Algorithm: s.Sum, Value: crc64nvme.Checksum(s.Data)}
	default:
		return ranges.Checksum{}
	}
}

type body struct {
	s      *Source
	ctx    context.Context //nolint:containedctx // the request's: it bounds the body
	r      *bytes.Reader
	act    Action
	at     int64
	closed bool
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.act.Stall > 0 {
		if b.at >= b.act.StallAt {
			d := b.act.Stall
			b.act.Stall = 0
			if err := pause(b.ctx, d); err != nil {
				return 0, err
			}
		} else {
			p = p[:min(int64(len(p)), b.act.StallAt-b.at)]
		}
	}
	if b.act.Cut {
		if b.at >= b.act.CutAt {
			return 0, errReset
		}
		p = p[:min(int64(len(p)), b.act.CutAt-b.at)]
	}
	if b.act.BytesRate > 0 {
		p = p[:min(int64(len(p)), 64<<10, b.act.BytesRate)]
		if err := pause(b.ctx, time.Duration(float64(len(p))/float64(b.act.BytesRate)*float64(time.Second))); err != nil {
			return 0, err
		}
	}
	n, err := b.r.Read(p)
	b.at += int64(n)
	b.s.mu.Lock()
	b.s.sent += int64(n)
	b.s.mu.Unlock()
	return n, err
}

func (b *body) Close() error {
	if b.closed {
		return errors.New("body closed twice")
	}
	b.closed = true
	b.s.end()
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
