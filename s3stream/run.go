package s3stream

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
)

// run is the life of one Run call: goroutines that end together, the first
// failure, and a context that outlives the caller's for a moment, so that the
// other nodes can be told why.
type run struct {
	wg     sync.WaitGroup
	failed chan struct{} // closed by the first fail

	mu  sync.Mutex // guards err
	err error
}

// begin returns a run and the context of its goroutines, which keeps the
// values of ctx but not its end: that becomes a failure like any other. stop
// ends the context and returns when every goroutine has ended.
func begin(ctx context.Context) (r *run, inner context.Context, stop func()) {
	r = &run{failed: make(chan struct{})}
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(ctx, func() { r.fail(context.Cause(ctx)) })
	return r, inner, func() {
		unhook()
		r.mu.Lock()
		err := r.err
		r.mu.Unlock()
		if err == nil {
			err = errOver
		}
		cancel(err)
		r.wg.Wait()
	}
}

// errOver is the cause of the context's end when nothing failed.
var errOver = context.Canceled

// fail records why the run ends. Only the first reason counts: what fails
// later mostly fails because of it.
func (r *run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
		close(r.failed)
	}
}

// spawn runs f in a goroutine; its error fails the run.
func (r *run) spawn(f func() error) {
	r.wg.Go(func() {
		if err := contain(f); err != nil {
			r.fail(err)
		}
	})
}

// contain turns a panic of f into an error with the stack. What f reads comes from other machines, and a fault of ours
// in reading it must fail this transfer, not the process of a training job that imports the package.
func contain(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

// over reports whether the run has failed: what ends after that ends because of it.
func (r *run) over() bool {
	select {
	case <-r.failed:
		return true
	default:
		return false
	}
}

// reason returns the first failure, or nil.
func (r *run) reason() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}
