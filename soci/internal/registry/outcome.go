package registry

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"

	"github.com/penstock/penstock/internal/ranges"
)

// What an error of a host tells, the most telling first. A host that refuses us or whose
// certificate is wrong is a matter of configuration; that the registry itself can not be
// reached is what nodes without a way out expect.
const (
	rankDigest  = iota // wrong content
	rankDenied         // no right, a refused token server, a credential helper
	rankMissing        // the registry does not have it
	rankTLS            // certificates, http where https is spoken
	rankStatus         // another answer
	rankSilence        // no answer
	rankName           // no such name, or no name server
	rankAbsent         // a mirror does not have it
)

// rank is the place of an error among those of several hosts. own is the registry itself.
func rank(err error, own bool) int {
	f, _ := errors.AsType[*ranges.Fault](err)
	_, badCert := errors.AsType[*tls.CertificateVerificationError](err)
	_, badRecord := errors.AsType[tls.RecordHeaderError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	_, name := errors.AsType[*net.DNSError](err)
	switch {
	case errors.Is(err, ErrDigest):
		return rankDigest
	case f != nil && f.Kind == ranges.Denied:
		return rankDenied
	case f != nil && f.Kind == ranges.NotFound && own:
		return rankMissing
	case f != nil && f.Kind == ranges.NotFound:
		return rankAbsent
	case badCert, badRecord, alert, errors.Is(err, http.ErrSchemeMismatch):
		return rankTLS
	case f != nil && f.Status != 0:
		return rankStatus
	case name:
		return rankName
	}
	return rankSilence
}

// outcome makes one fault of the failures of all hosts that were asked. It is worth asking
// again when a host may answer later, and the registry itself has not answered for good.
func outcome(errs *hostErrors, own error) *ranges.Fault {
	out := &ranges.Fault{Kind: ranges.Permanent, Err: errs}
	if f, ok := errors.AsType[*ranges.Fault](errs.all[0].err); ok {
		out.Kind, out.Status = f.Kind, f.Status
	}
	if f, ok := errors.AsType[*ranges.Fault](own); ok && !temporary(own) && (f.Status != 0 || f.Kind == ranges.Denied) {
		out.Kind = settled(out.Kind)
		return out
	}
	later, throttled := false, true
	for _, e := range errs.all {
		f, _ := errors.AsType[*ranges.Fault](e.err)
		if !temporary(e.err) || errors.Is(e.err, ErrDigest) {
			continue
		}
		if f == nil || f.Kind != ranges.Throttled {
			throttled = false
		} else if !later || f.RetryAfter < out.RetryAfter {
			out.RetryAfter = f.RetryAfter
		}
		later = true
	}
	switch {
	case !later:
		out.Kind = settled(out.Kind)
	case throttled:
		out.Kind = ranges.Throttled
	default: // the others need not wait for the one that asked for a pause
		out.Kind, out.RetryAfter, out.Fresh = ranges.Retryable, 0, true
	}
	return out
}

// settled is a kind that is not asked for again.
func settled(k ranges.FaultKind) ranges.FaultKind {
	if k == ranges.Retryable || k == ranges.Throttled || k == ranges.OutOfRange {
		return ranges.Permanent
	}
	return k
}
