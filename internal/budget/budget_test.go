package budget

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestClassOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 1<<30).Draw(t, "n")
		class, size := classOf(n)
		if size < n || class < 0 || class >= classes {
			t.Fatalf("%d bytes: class %d of %d bytes", n, class, size)
		}
		if n > 1<<minClassBits && float64(size) > 1.25*float64(n)+1 {
			t.Fatalf("%d bytes waste %d", n, size-n)
		}
		if c2, s2 := classOf(size); c2 != class || s2 != size {
			t.Fatalf("class %d of %d bytes is not its own class: %d, %d", class, size, c2, s2)
		}
	})
}

func TestBuffersAreReusedAndBounded(t *testing.T) {
	b := New(8 << 20)
	defer b.Trim()
	var held []*Buf
	for f := b.TryGet(1 << 20); f != nil; f = b.TryGet(1 << 20) {
		held = append(held, f)
	}
	if b.Idle() != 0 {
		t.Errorf("%d bytes idle before any was used", b.Idle())
	}
	for _, f := range held {
		f.Bytes()[0] = 1 // the first use allocates memory
	}
	if len(held) != 8 || b.InUse() != 8<<20 {
		t.Fatalf("%d buffers, %d bytes in use", len(held), b.InUse())
	}
	for _, f := range held {
		f.Release()
	}
	if b.InUse() != 0 || b.Idle() != 8<<20 {
		t.Errorf("in use %d, idle %d after release", b.InUse(), b.Idle())
	}
	// Idle buffers make room for another size, so that in use + idle stays bounded.
	big := b.TryGet(4 << 20)
	if big == nil || b.InUse()+b.Idle() > b.Limit() {
		t.Errorf("in use %d + idle %d above %d", b.InUse(), b.Idle(), b.Limit())
	}
	big.Release()
	if n := testing.AllocsPerRun(100, func() { f := b.TryGet(1 << 20); f.Bytes()[0]++; f.Release() }); n != 0 {
		t.Errorf("%v allocations for a pooled buffer", n)
	}
}

func TestWaitersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(100)
		b.Force(100)
		var mu sync.Mutex
		var got []int64
		for _, n := range []int64{60, 10, 30} {
			go func() {
				if err := b.Acquire(t.Context(), n); err != nil {
					t.Error(err)
				}
				mu.Lock()
				got = append(got, n)
				mu.Unlock()
			}()
			synctest.Wait()
		}
		if b.TryAcquire(1) {
			t.Error("TryAcquire passed the waiters")
		}
		b.Release(50) // the head needs 60, and no other waiter may pass it
		synctest.Wait()
		if len(got) != 0 {
			t.Errorf("granted %v with 50 free", got)
		}
		b.Release(50)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(got) != 3 || b.InUse() != 100 {
			t.Errorf("granted %v, in use %d", got, b.InUse())
		}
	})
}

func TestCancelledWaiterLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(100)
		b.Force(90)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		done := make(chan error)
		go func() { done <- b.Acquire(ctx, 50) }()
		synctest.Wait()
		go func() { done <- b.Acquire(t.Context(), 10) }() // waits behind the large one
		synctest.Wait()
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("first to end: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("the small reservation behind a cancelled large one: %v", err)
		}
		if b.InUse() != 100 {
			t.Errorf("in use %d", b.InUse())
		}
	})
}

func TestAccountAlwaysGetsItsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(64 << 10)
		defer b.Trim()
		hog := b.MustGet(64 << 10)
		a := b.Account()
		first, err := a.Get(t.Context(), 32<<10)
		if err != nil {
			t.Fatal(err)
		}
		if a.TryGet(32<<10) != nil {
			t.Error("a second buffer was granted above the limit")
		}
		// The account waits for its second buffer. When its first one is released, it
		// holds nothing, and gets the second although the hog holds the whole budget.
		got := make(chan *Buf)
		go func() {
			f, err := a.Get(t.Context(), 32<<10)
			if err != nil {
				t.Error(err)
			}
			got <- f
		}()
		synctest.Wait()
		first.Release()
		second := <-got
		if a.Held() != 32<<10 {
			t.Errorf("account holds %d", a.Held())
		}
		second.Release()
		hog.Release()
		if b.InUse() != 0 || a.Held() != 0 {
			t.Errorf("in use %d, held %d at the end", b.InUse(), a.Held())
		}
	})
}

func TestMisusePanics(t *testing.T) {
	for name, f := range map[string]func(*Budget){
		"released twice": func(b *Budget) { f := b.MustGet(10); f.Release(); f.Release() },
		"retained after": func(b *Budget) { f := b.MustGet(10); f.Release(); f.Retain() },
		"too much back":  func(b *Budget) { b.Force(5); b.Release(6) },
		"truncate grows": func(b *Budget) { b.MustGet(10).Truncate(11) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f(New(1 << 20))
		})
	}
}

func TestParallel(t *testing.T) {
	b := New(1 << 20)
	defer b.Trim()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			a := b.Account()
			for range 300 {
				f, err := a.Get(t.Context(), 16<<10<<(i%4))
				if err != nil {
					t.Error(err)
					return
				}
				f.Bytes()[0]++
				f.Retain()
				f.Release()
				f.Release()
			}
		})
	}
	wg.Wait()
	if b.InUse() != 0 {
		t.Errorf("in use %d", b.InUse())
	}
}

func TestMemoryLimit(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"nothing":    {nil, minDefault},
		"machine":    {map[string]string{"proc/meminfo": "MemTotal:       8388608 kB\nMemFree: 1 kB\n"}, 2 << 30},
		"huge":       {map[string]string{"proc/meminfo": "MemTotal: 2147483648 kB\n"}, maxDefault},
		"v2":         {map[string]string{"proc/meminfo": "MemTotal: 8388608 kB\n", "proc/self/cgroup": "0::/pod/c\n", "sys/fs/cgroup/pod/c/memory.max": "max\n", "sys/fs/cgroup/pod/memory.max": "1073741824\n"}, 256 << 20},
		"v2 private": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 128 << 20},
		"v1":         {map[string]string{"proc/self/cgroup": "5:cpu:/x\n4:memory:/x\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1073741824\n"}, 256 << 20},
		"v1 none":    {map[string]string{"proc/meminfo": "MemTotal: 1048576 kB\n", "proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 256 << 20},
		"tiny":       {map[string]string{"sys/fs/cgroup/memory.max": "1000000\n"}, minDefault},
	} {
		root := t.TempDir()
		for f, data := range c.files {
			p := filepath.Join(root, f)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := defaultLimit(root); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func Example() {
	b := New(1 << 20)
	defer b.Trim()
	a := b.Account()
	first, _ := a.Get(context.Background(), 512<<10)
	second := a.TryGet(512 << 10)
	third := a.TryGet(512 << 10)
	fmt.Println(len(first.Bytes()), len(second.Bytes()), third == nil)
	first.Release()
	second.Release()
	fmt.Println(b.InUse(), b.Peak())
	// Output:
	// 524288 524288 true
	// 0 1048576
}
