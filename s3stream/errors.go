package s3stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// What callers branch on, through errors.Is.
var (
	ErrChanged  = ranges.ErrChanged  // the object was replaced while it was read
	ErrNotFound = ranges.ErrNotFound // no such bucket, key, or nothing below the prefix
	ErrDenied   = ranges.ErrDenied   // the store refused the credentials
	ErrChecksum = ranges.ErrChecksum // an object's bytes do not match its checksum

	ErrToken      = errors.New("wrong token")
	ErrCorrupt    = wire.ErrCorrupt // a block was damaged on its way from a peer
	ErrLeaderLost = errors.New("leader lost")
	ErrDetached   = errors.New("cut off by the parent")
	ErrIncomplete = errors.New("not every worker has everything")
)

// Error says which step failed, with which peer, at which bytes of which object.
type Error struct {
	Op     string // "join", "receive", "send", "deliver", "read"
	Peer   string // the other node, by name and address; "" for none
	Object string // s3://bucket/key; "" for none
	Off    int64  // where in the object
	Err    error
}

func (e *Error) Error() string {
	s := e.Op
	if e.Object != "" {
		s += fmt.Sprintf(" %s at byte %d", e.Object, e.Off)
	}
	if e.Peer != "" {
		prep := "from"
		switch e.Op {
		case "send":
			prep = "to"
		case "join":
			prep = "leader"
		}
		s += " " + prep + " " + e.Peer
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// codes are the causes that travel between nodes: the receiver's error then
// satisfies errors.Is as the sender's does.
var codes = []struct {
	code string
	err  error
}{
	{wire.CodeToken, ErrToken},
	{"changed", ErrChanged},
	{"not-found", ErrNotFound},
	{"denied", ErrDenied},
	{"checksum", ErrChecksum},
	{"corrupt", ErrCorrupt},
	{"detached", ErrDetached},
	{"gone", errGone},
	{"cancelled", context.Canceled},
}

// errGone is a parent's answer to a child whose position it no longer holds.
var errGone = errors.New("the parent no longer has the next block")

// failureOf makes err fit to travel.
func failureOf(err error) *wire.Failure {
	if f := (*wire.Failure)(nil); errors.As(err, &f) {
		return f
	}
	f := &wire.Failure{Code: "failed", Message: err.Error()}
	// A path or a host name may be long, a JSON frame is not.
	f.Message = f.Message[:min(len(f.Message), maxReason)]
	for _, c := range codes {
		if errors.Is(err, c.err) {
			f.Code = c.code
			break
		}
	}
	if f.Code == "cancelled" {
		f.Message = "interrupted"
	}
	return f
}

// remote is what another node said, with the sentinel of its code.
type remote struct {
	*wire.Failure
	sentinel error
}

func (r *remote) Unwrap() []error {
	if r.sentinel == nil {
		return []error{r.Failure}
	}
	return []error{r.Failure, r.sentinel}
}

// fromWire gives a Failure in err back its sentinel.
func fromWire(err error) error {
	f := (*wire.Failure)(nil)
	if !errors.As(err, &f) {
		return err
	}
	f = &wire.Failure{Code: f.Code, Message: printable.Line(f.Message, maxReason)} // a peer chose the text
	for _, c := range codes {
		if c.code == f.Code {
			return &remote{f, c.err}
		}
	}
	return &remote{f, nil}
}

// plain turns the errors of a broken connection into words.
func plain(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errClosedByPeer
	case errors.Is(err, net.ErrClosed):
		return errClosedHere
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errSilent
	}
	return err
}

var (
	errClosedByPeer = errors.New("connection closed by the peer")
	errClosedHere   = errors.New("connection given up: the other end is lost or has dialled again")
)

// errSilent is a peer from which nothing has come for the stall timeout.
var errSilent = errors.New("nothing heard for the stall timeout")
