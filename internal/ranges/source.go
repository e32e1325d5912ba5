package ranges

import (
	"context"
	"fmt"
	"io"
	"time"
)

// A Source is one object at one place. It makes one request for each call and
// never loops: retries, hedges and their limits are the engine's. It is called
// from many goroutines at once.
type Source interface {
	// Open asks for one range. The body yields exactly info.Len bytes and then
	// io.EOF, or an error: a short body must not end in io.EOF. With info.Len -1
	// the answer is the whole object and does not tell its length: the body ends in
	// io.EOF at an end that the protocol marks. Cancelling ctx
	// ends a blocked Open and a blocked Read of the body. Errors are classified
	// by wrapping a *Fault; any other error counts as Retryable.
	//
	// With a *Fault of kind OutOfRange, info.Size tells the size if it is known.
	Open(ctx context.Context, req Request) (body io.ReadCloser, info Info, err error)
}

// Request is one ranged read.
type Request struct {
	Off, Len int64  // bytes [Off, Off+Len); Len > 0; may reach beyond the end of an object of unknown size
	Pin      string // validator that the answer must have; "" while the object is not pinned
	Fresh    bool   // use a new connection: the last one stalled or broke, or this is a hedge
	Attempt  int    // 0 for the first try of these bytes
}

// Info is what an answer says of the object and of its own body.
type Info struct {
	Size     int64  // size of the whole object in bytes; -1 unknown
	Off, Len int64  // what the body carries: the request or its beginning, or 0, Size when the server ignored the range; Len -1: see Open
	Pin      string // validator of the answer; "" if it has none
	// StandIn is another validator, for an answer that cannot be compared with the pin and whose server has not compared
	// it either. The answers of one object must have the same.
	StandIn string
	Sum     Checksum // checksum of the whole object, if the answer tells one
}

// ChecksumAlgorithm names a checksum of a whole object.
type ChecksumAlgorithm uint8

// The algorithms that combine in constant time, so that parts can be summed in
// parallel and joined in order.
const (
	NoChecksum ChecksumAlgorithm = iota
	CRC32C                       // RFC 3720 section B.4, Castagnoli
	CRC64NVME                    // NVM Express NVM Command Set 1.0d section 5.2.1.3.4
)

func (a ChecksumAlgorithm) String() string {
	switch a {
	case CRC32C:
		return "CRC32C"
	case CRC64NVME:
		return "CRC64NVME"
	default:
		return "none"
	}
}

// Checksum is a value of an algorithm; the zero Checksum is "none known".
type Checksum struct {
	Algorithm ChecksumAlgorithm
	Value     uint64
}

func (c Checksum) String() string {
	switch c.Algorithm {
	case CRC32C:
		return fmt.Sprintf("CRC32C %08x", c.Value)
	case CRC64NVME:
		return fmt.Sprintf("CRC64NVME %016x", c.Value)
	default:
		return "none"
	}
}

// FaultKind says what the engine may do about a failed request.
type FaultKind uint8

// The kinds of fault.
const (
	Retryable  FaultKind = iota // broken connection, 5xx: ask again after a back-off
	Throttled                   // 429, 503 SlowDown: ask again, with fewer requests at once
	Changed                     // the object is no longer the pinned one
	NotFound                    // no such object
	Denied                      // credentials missing, wrong or without the right
	OutOfRange                  // the range starts at or after the end (416)
	NoRanges                    // the server can't serve ranges of this object
	Permanent                   // anything else that asking again won't mend
	WrongSize                   // the answer has the right validator and is about an object of another size
)

var kindNames = [...]string{"retryable", "throttled", "changed", "not found", "denied", "out of range", "no ranges", "permanent", "wrong size"}

func (k FaultKind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("FaultKind(%d)", k)
}

// Fault is a classified failure of one request, made by a Source.
type Fault struct {
	Kind       FaultKind
	Status     int           // HTTP status; 0 when there was no answer
	RetryAfter time.Duration // the server's wish; 0 none
	Fresh      bool          // the connection is to blame: ask again on a new one
	Err        error         // what went wrong; secrets already redacted
}

func (f *Fault) Error() string {
	switch {
	case f.Err == nil && f.Status == 0:
		return f.Kind.String()
	case f.Err == nil:
		return fmt.Sprintf("HTTP status %d (%v)", f.Status, f.Kind)
	default:
		return f.Err.Error()
	}
}

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Err }

// Is makes a Fault match the sentinel of its kind.
func (f *Fault) Is(target error) bool { return f.Kind.sentinel() == target && target != nil }

// sentinel returns the error that callers branch on for this kind, or nil.
func (k FaultKind) sentinel() error {
	switch k {
	case Changed:
		return ErrChanged
	case NotFound:
		return ErrNotFound
	case Denied:
		return ErrDenied
	case NoRanges:
		return ErrNoRanges
	case WrongSize:
		return ErrSize
	case Retryable, Throttled, OutOfRange, Permanent:
	}
	return nil
}
