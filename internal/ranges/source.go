package ranges

import (
	"context"
	"fmt"
	"io"
	"time"
)

// A Source is one object on one server. Each call makes one request. A Source must
// not retry, because retries, hedges and their limits belong to the engine. It
// must be safe for concurrent use.
type Source interface {
	// Open requests one range. The body yields exactly info.Len bytes and then
	// io.EOF, or an error; a short body must not end in io.EOF. If info.Len is
	// -1, the answer is the whole object without a length, and the body ends in
	// io.EOF where the protocol marks its end. Cancelling ctx must end a blocked
	// Open and a blocked Read of the body. Open classifies an error by wrapping a
	// *Fault; any other error counts as Retryable.
	//
	// With a *Fault of kind OutOfRange, info.Size is the object's size or -1.
	Open(ctx context.Context, req Request) (body io.ReadCloser, info Info, err error)
}

// Request is one ranged read.
type Request struct {
	Off, Len int64  // bytes [Off, Off+Len); Len > 0; may exceed an object of unknown size
	Pin      string // validator that the answer must have; "" while the object is not pinned
	Fresh    bool   // use a new connection, because the last one stalled or broke, or for a hedge
	Attempt  int    // number of earlier requests for these bytes
}

// Info describes the object and the body of one answer.
type Info struct {
	Size int64 // size of the whole object in bytes; -1 if unknown
	// Off and Len are the range of the body: the requested range or its
	// beginning, or 0 and Size if the server ignored the range. See Open for a
	// Len of -1.
	Off, Len int64
	Pin      string // validator of the answer; "" if it has none
	// StandIn is another validator, for an answer that can't be compared with the
	// pin and whose server hasn't compared it either. All answers of an object
	// must have the same StandIn.
	StandIn string
	Sum     Checksum // checksum of the whole object, if the answer has one
}

// ChecksumAlgorithm names a checksum of a whole object.
type ChecksumAlgorithm uint8

// The checksum algorithms. Their values for two parts combine without the bytes,
// so that parts are summed in parallel and joined in order.
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

// Checksum is the value of an algorithm. The zero Checksum is unknown.
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

// FaultKind tells the engine how to react to a failed request.
type FaultKind uint8

// The kinds of fault.
const (
	Retryable  FaultKind = iota // broken connection, 5xx: retry after a back-off
	Throttled                   // 429, 503 SlowDown: retry, with fewer concurrent requests
	Changed                     // the object isn't the pinned version
	NotFound                    // the object doesn't exist
	Denied                      // credentials missing, wrong or without the right
	OutOfRange                  // the range starts at or after the end (416)
	NoRanges                    // the server can't serve ranges of this object
	Permanent                   // any other failure that a retry can't mend
	WrongSize                   // the right validator, but an object of another size
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
	Status     int           // HTTP status; 0 without an answer
	RetryAfter time.Duration // pause that the server requested, or 0
	Fresh      bool          // the connection is to blame: retry on a new one
	Err        error         // cause, without secrets
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
