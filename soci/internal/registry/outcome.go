package registry

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"

	"github.com/penstock/penstock/internal/ranges"
)

// Ranks of the errors of hosts, the most informative first. A refusal or a
// wrong certificate points to the configuration. An unreachable registry ranks
// low, because nodes without access to the internet expect it.
const (
	rankDigest  = iota // wrong content
	rankDenied         // missing rights, a refused token server, a failed credential helper
	rankMissing        // the registry does not have the content
	rankTLS            // a certificate error, or http to a host that speaks https
	rankStatus         // any other answer
	rankSilence        // no answer
	rankName           // the name does not exist, or the name server does not answer
	rankAbsent         // a mirror does not have the content
)

// rank returns the rank of a host's error. own is set for the registry itself.
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

// outcome combines the errors of all hosts that were asked into one fault. The
// fault is retryable if a host may answer later, unless the registry itself,
// whose error is own, has given a final answer.
func outcome(errs *hostErrors, own error) *ranges.Fault {
	out := &ranges.Fault{Kind: ranges.Permanent, Err: errs}
	if f, ok := errors.AsType[*ranges.Fault](errs.all[0].err); ok {
		out.Kind, out.Status = f.Kind, f.Status
	}
	if f, ok := errors.AsType[*ranges.Fault](own); ok && !temporary(own) && (f.Status != 0 || f.Kind == ranges.Denied) {
		out.Kind = permanentKind(out.Kind)
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
		out.Kind = permanentKind(out.Kind)
	case throttled:
		out.Kind = ranges.Throttled
	default: // other hosts can be asked without the pause that one of them wants
		out.Kind, out.RetryAfter, out.Fresh = ranges.Retryable, 0, true
	}
	return out
}

// permanentKind returns k, or Permanent if the engine would retry k.
func permanentKind(k ranges.FaultKind) ranges.FaultKind {
	if k == ranges.Retryable || k == ranges.Throttled || k == ranges.OutOfRange {
		return ranges.Permanent
	}
	return k
}
