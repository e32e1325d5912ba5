package front

import "context"

// The fast path marks the context of a query that it takes to the plugin chain,
// if the cache there must treat it in another way.

// atOnceKey is the key of a context value that keeps the cache from asking the
// source before it serves a stale entry.
type atOnceKey struct{}

// atOnce returns ctx with that value.
func atOnce(ctx context.Context) context.Context { return context.WithValue(ctx, atOnceKey{}, true) }

// MayVerify reports whether a query with ctx may wait for the source although
// there is a stale entry.
func MayVerify(ctx context.Context) bool { return ctx.Value(atOnceKey{}) == nil }

// againKey is the key of a context value that marks a query which asks the
// source even though another query of its key is waiting for it.
type againKey struct{}

// again returns ctx with the mark of askAgain.
func again(ctx context.Context) context.Context { return context.WithValue(ctx, againKey{}, true) }

// AsksAgain reports whether ctx has that mark.
func AsksAgain(ctx context.Context) bool { return ctx.Value(againKey{}) != nil }
