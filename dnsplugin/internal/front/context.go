package front

import "context"

// The fast path marks the context of some queries that it takes to the plugin
// chain, for the cache there.

// atOnceKey is the key of a context value that makes the cache serve a stale
// entry without asking the source first.
type atOnceKey struct{}

// atOnce returns ctx with the mark of atOnceKey.
func atOnce(ctx context.Context) context.Context { return context.WithValue(ctx, atOnceKey{}, true) }

// MayVerify reports whether a query with ctx that has a stale entry may wait for
// the source.
func MayVerify(ctx context.Context) bool { return ctx.Value(atOnceKey{}) == nil }

// againKey is the key of a context value that marks a query which asks the
// source even though another query of its key is waiting for it.
type againKey struct{}

// again returns ctx with the mark of againKey.
func again(ctx context.Context) context.Context { return context.WithValue(ctx, againKey{}, true) }

// AsksAgain reports whether ctx has the mark of againKey.
func AsksAgain(ctx context.Context) bool { return ctx.Value(againKey{}) != nil }
