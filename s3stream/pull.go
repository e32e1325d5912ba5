package s3stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/penstock/penstock/s3stream/internal/ring"
	"github.com/penstock/penstock/s3stream/internal/topology"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

const (
	// verdictWait is how long a worker without a parent waits for the leader's
	// word on the job: when a job is aborted the data stops a moment before
	// the reason arrives.
	verdictWait = 500 * time.Millisecond
	// leaderPause before the second try at the leader, doubled for the third.
	leaderPause = 100 * time.Millisecond
)

// pull receives everything, from the planned parent or from its backups.
func (w *workerRun) pull(ctx context.Context) error {
	backups := topology.NewBackups(w.plan, int(w.start.Node))
	var last error
	for {
		w.mu.Lock()
		for id := range w.lost {
			backups.Fail(id)
		}
		w.mu.Unlock()
		parent, ok := backups.Next()
		if !ok {
			return w.orphaned(ctx, last)
		}
		if n := backups.LeaderFailures(); parent == topology.Leader && n > 0 {
			select {
			case <-time.After(leaderPause << n):
			case <-ctx.Done():
			}
		}
		before := w.node.ring.Head()
		err := w.pullFrom(ctx, parent)
		if err == nil {
			w.node.ring.Finish()
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		last = w.broken(parent, err)
		if w.node.ring.Head() > before {
			backups.Progress(parent)
		}
		backups.Fail(parent)
	}
}

// broken notes that a parent failed.
func (w *workerRun) broken(parent int, err error) error {
	p := w.items.at(min(w.node.ring.Head(), w.items.total()-1))
	o := &w.items.m.Objects[p.object]
	e := &Error{Op: "receive", Peer: w.node.name(uint32(parent)), Object: o.String(), Off: p.off, Err: plain(err)}
	w.w.opts.Log.Warn("parent failed", "err", e)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.repairs = append(w.repairs, Repair{Peer: e.Peer, Object: e.Object, Off: e.Off, Err: e})
	return e
}

// orphaned waits a moment for a better reason than the last parent's failure.
func (w *workerRun) orphaned(ctx context.Context, last error) error {
	select {
	case <-w.life.failed:
	case <-ctx.Done():
	case <-time.After(verdictWait):
	}
	return last
}

// pullFrom receives from one parent until everything is here.
func (w *workerRun) pullFrom(ctx context.Context, parent int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addr := w.w.opts.Leader
	if parent != topology.Leader {
		addr = w.start.Members[parent-1].Addr
	}
	next := w.node.ring.Head()
	conn, err := dial(ctx, addr, w.w.opts.Token, wire.Request{
		Role: wire.Child, Name: w.w.opts.Name, Node: w.start.Node, Job: w.start.Job, From: next,
	}, dialTimeout(w.start.Stall), min(handshakeTimeout, w.start.Stall))
	if err != nil {
		return err
	}
	unhook := context.AfterFunc(ctx, func() { conn.Close() })
	defer unhook()
	defer conn.Close()
	conn.SetWriteTimeout(w.start.Stall)
	w.setUpstream(parent, conn)
	defer w.setUpstream(parent, nil)

	reporting, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { w.reportUp(reporting, conn) })
	// Nothing may pass before our planned children are there, or they would
	// have to ask for it again.
	w.ready.Do(func() { w.node.awaitChildren(ctx, w.plan.Children(int(w.start.Node))) })
	for next < w.items.total() {
		it, err := w.receive(ctx, conn, next)
		if err != nil {
			return err
		}
		if it.Header.Type == wire.Ping {
			continue
		}
		if err := w.node.ring.Put(ctx, it); err != nil {
			return err
		}
		next++
		if next%w.start.Report == 0 {
			w.node.poke()
		}
	}
	stop()
	wg.Wait()
	return w.state().send(conn)
}

func (w *workerRun) setUpstream(parent int, conn *wire.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parent, w.upstream = parent, conn
	if conn != nil {
		w.elsewhere = w.elsewhere || parent != w.plan.Parent(int(w.start.Node))
		head := w.node.ring.Head()
		if n := len(w.parents); n > 0 && w.parents[n-1].first == head {
			w.parents = w.parents[:n-1] // that parent sent nothing
		}
		w.parents = append(w.parents, stretch{head, parent})
	}
	if conn != nil && w.lost[parent] { // lost while we were dialling
		conn.Close()
	}
}

// receive reads the item that must come next, or a Ping.
func (w *workerRun) receive(ctx context.Context, conn *wire.Conn, next uint64) (it ring.Item, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(w.start.Stall)); err != nil {
		return it, err
	}
	h, err := conn.ReadHeader()
	if err != nil {
		return it, err
	}
	it.Header = h
	p := w.items.at(next)
	want := wire.Header{Type: wire.Block, Object: uint32(p.object), Length: uint32(p.n), Offset: p.off, Sum: h.Sum}
	if p.end {
		want.Type, want.Length = wire.End, wire.TrailerLen
	}
	switch {
	case h.Type == wire.Ping:
		return it, nil
	case h.Type == wire.Error:
		return it, fromWire(wire.ReadFailure(conn, h))
	case h != want:
		return it, fmt.Errorf("%w: got %s of object %d at %d, expected %s of object %d at %d",
			wire.ErrHeader, h.Type, h.Object, h.Offset, want.Type, want.Object, want.Offset)
	}
	if p.end {
		it.Payload, err = conn.ReadSmall(h)
		return it, err
	}
	buf, err := w.budget.Get(ctx, int(p.n))
	if err != nil {
		return it, err
	}
	if err := conn.ReadPayload(h, buf.Bytes()); err != nil {
		buf.Release()
		return it, err
	}
	it.Buf, it.Payload = buf, buf.Bytes()
	return it, nil
}

// childState is a wire.State that can be sent.
type childState wire.State

func (s childState) send(conn *wire.Conn) error {
	return conn.WriteSmall(wire.Progress, 0, wire.State(s).Append(make([]byte, 0, wire.StateLen)))
}

func (w *workerRun) state() childState {
	n, have := w.node.ring.Children()
	head := w.node.ring.Head()
	return childState{Have: head, Low: min(head, have), Children: uint32(n), Waiting: w.node.ring.WaitsForChild()}
}

// reportUp tells the parent how far we and our children are: whenever that has
// changed enough, and three times in a stall timeout, since it also tells that
// we live.
func (w *workerRun) reportUp(ctx context.Context, conn *wire.Conn) {
	t := time.NewTicker(w.start.Stall / 3)
	defer t.Stop()
	every := w.start.Report
	var last childState
	for due := true; ; {
		s := w.state()
		due = due || s.Have-last.Have >= every || s.Low < last.Low || s.Low-last.Low >= every || s.Children != last.Children
		if due {
			if s.send(conn) != nil {
				return // the reader sees it too
			}
			last = s
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			due = true
		case <-w.node.moved:
			due = false
		}
	}
}

func isLeaderLost(err error) bool { return errors.Is(err, ErrLeaderLost) }
