package ring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

func item(b *budget.Budget, i int) Item {
	buf := b.MustGet(8)
	copy(buf.Bytes(), fmt.Sprintf("%8d", i))
	return Item{wire.Frame{Header: wire.Header{Type: wire.Block, Offset: int64(i)}, Payload: buf.Bytes()}, buf}
}

// consume takes everything, acknowledging each item.
func consume(t *testing.T, c *Cursor, from int) (n int) {
	t.Helper()
	batch := make([]Item, 3)
	for {
		k, err := c.Next(t.Context(), batch, 16)
		if err == io.EOF {
			return n
		}
		if err != nil {
			t.Error(err)
			return n
		}
		for _, it := range batch[:k] {
			if want := fmt.Sprintf("%8d", from+n); string(it.Payload) != want {
				t.Errorf("got item %q, want %q", it.Payload, want)
			}
			it.Release()
			n++
		}
		if ok, moved := c.Ack(uint64(from+n), uint64(from+n), 0); !ok || !moved {
			t.Error("an honest acknowledgement was refused")
		}
	}
}

func TestEveryConsumerGetsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(1 << 20)
		r := New(4)
		got := make(chan int)
		for i := range 3 {
			c, err := r.Attach(0, i > 0)
			if err != nil {
				t.Fatal(err)
			}
			go func() { got <- consume(t, c, 0) }()
		}
		for i := range 100 {
			if err := r.Put(t.Context(), item(b, i)); err != nil {
				t.Fatal(err)
			}
			if n := r.Head() - r.Oldest(); n > 4 {
				t.Fatalf("%d items in a ring of 4", n)
			}
		}
		r.Finish()
		for range 3 {
			if n := <-got; n != 100 {
				t.Errorf("a consumer got %d of 100 items", n)
			}
		}
		r.Close(io.ErrClosedPipe)
		if b.InUse() != 0 {
			t.Errorf("%d bytes are still held", b.InUse())
		}
	})
}

// A child that stops reading holds the producer back at the capacity, and the
// ring says that a child is to blame.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(1 << 20)
		r := New(4)
		sink, _ := r.Attach(0, false)
		child, _ := r.Attach(0, true)
		sunk := make(chan int)
		go func() { sunk <- consume(t, sink, 0) }()
		done := make(chan error)
		go func() {
			var err error
			for i := 0; i < 10 && err == nil; i++ {
				err = r.Put(t.Context(), item(b, i))
			}
			r.Finish()
			done <- err
		}()
		synctest.Wait()
		if r.Head() != 4 || !r.WaitsForChild() {
			t.Fatalf("head %d, waits for child %v; want 4, true", r.Head(), r.WaitsForChild())
		}
		if sink.Blocks() || !child.Blocks() {
			t.Error("the wrong consumer is to blame")
		}
		if n, have := r.Children(); n != 1 || have != 0 {
			t.Errorf("%d children have %d", n, have)
		}
		// It receives two, but its own children lack the second.
		batch := make([]Item, 2)
		n, _ := child.Next(t.Context(), batch, 1<<20)
		for _, it := range batch[:n] {
			it.Release()
		}
		for _, lie := range [][2]uint64{{9, 1}, {2, 3}} {
			if ok, _ := child.Ack(lie[0], lie[1], 0); ok {
				t.Errorf("the lie %v was believed", lie)
			}
		}
		child.Ack(2, 1, 0)
		synctest.Wait()
		if r.Head() != 5 {
			t.Errorf("head %d, want 5: one item was let go of", r.Head())
		}
		child.Leave(0)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := <-sunk; n != 10 {
			t.Errorf("the sink got %d of 10 items", n)
		}
		r.Close(io.ErrClosedPipe)
		if b.InUse() != 0 {
			t.Errorf("%d bytes are still held", b.InUse())
		}
	})
}

// An orphan often notices the end of its parent before we do; nothing then
// waits for it.
func TestOrphanComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(1 << 20)
		r := New(4)
		child, _ := r.Attach(0, true)
		for i := range 4 {
			_ = r.Put(t.Context(), item(b, i))
		}
		batch := make([]Item, 4)
		n, _ := child.Next(t.Context(), batch, 1<<20)
		for _, it := range batch[:n] {
			it.Release()
		}
		child.Ack(4, 2, 1)
		orphan, err := r.Attach(2, true)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		child.Leave(time.Second)
		orphan.Leave(0)
		for i := 4; i < 8; i++ {
			_ = r.Put(t.Context(), item(b, i))
		}
		if time.Since(start) > 0 {
			t.Error("waited for an orphan that was there")
		}
		r.Close(io.ErrClosedPipe)
	})
}

// When a child dies, what its children lack waits for them, but not for ever.
func TestHold(t *testing.T) {
	for _, come := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := budget.New(1 << 20)
			r := New(4)
			child, _ := r.Attach(0, true)
			for i := range 4 {
				_ = r.Put(t.Context(), item(b, i))
			}
			batch := make([]Item, 4)
			n, _ := child.Next(t.Context(), batch, 1<<20)
			for _, it := range batch[:n] {
				it.Release()
			}
			child.Ack(4, 2, 1)
			child.Leave(time.Second)
			start := time.Now()
			done := make(chan struct{})
			go func() {
				for i := 4; i < 8; i++ {
					_ = r.Put(t.Context(), item(b, i))
				}
				close(done)
			}()
			synctest.Wait()
			if r.Oldest() != 2 {
				t.Fatalf("oldest is %d, want 2 held for the orphan", r.Oldest())
			}
			if come {
				if _, err := r.Attach(1, true); !errors.Is(err, ErrGone) {
					t.Errorf("attached to an item that is gone: %v", err)
				}
				orphan, err := r.Attach(2, true)
				if err != nil {
					t.Fatal(err)
				}
				orphan.Leave(0)
			}
			<-done
			if waited := time.Since(start) > 0; waited == come {
				t.Errorf("orphan came: %v, waited: %v", come, waited)
			}
			r.Close(io.ErrClosedPipe)
		})
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(1 << 20)
		r := New(2)
		c, _ := r.Attach(0, true)
		for i := range 2 {
			_ = r.Put(t.Context(), item(b, i))
		}
		put := make(chan error)
		go func() { put <- r.Put(t.Context(), item(b, 2)) }()
		ctx, cancel := context.WithCancelCause(t.Context())
		late, _ := r.Attach(2, true)
		next := make(chan error)
		go func() {
			_, err := late.Next(ctx, make([]Item, 1), 1)
			next <- err
		}()
		synctest.Wait()
		why := errors.New("why")
		cancel(why)
		if err := <-next; err != why {
			t.Errorf("Next: %v, want the cause", err)
		}
		r.Close(why)
		if err := <-put; err != why {
			t.Errorf("Put: %v, want the cause", err)
		}
		if _, err := c.Next(t.Context(), make([]Item, 1), 1); err != why {
			t.Errorf("Next after Close: %v", err)
		}
		if b.InUse() != 0 {
			t.Errorf("%d bytes are still held", b.InUse())
		}
	})
}

func TestPassingDoesNotAllocate(t *testing.T) {
	b := budget.New(1 << 20)
	r := New(8)
	c, _ := r.Attach(0, true)
	batch := make([]Item, 4)
	buf := b.MustGet(8)
	n := testing.AllocsPerRun(1000, func() {
		buf.Retain()
		_ = r.Put(context.Background(), Item{Buf: buf})
		k, _ := c.Next(context.Background(), batch, 1<<20)
		batch[0].Release()
		c.Ack(r.Head(), r.Head()-uint64(k)+1, 0)
	})
	if n > 0 {
		t.Errorf("%v allocations per item, want 0", n)
	}
}
