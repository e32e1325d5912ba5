package flow

import (
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// TestJoinNotifyBlocks checks that a target that joins a transfer, and blocks in
// Notify to limit its rate, holds up neither other callers of the Fetcher nor
// the transfer, and that wrong bytes are taken back only after they were
// reported.
func TestJoinNotifyBlocks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := &Fetcher{running: make(map[*transfer]struct{}), joinable: make(map[transferKey]*transfer)}
		var mu sync.Mutex
		reported := make(map[string][]int64)
		report := func(name string, n int64) {
			mu.Lock()
			defer mu.Unlock()
			reported[name] = append(reported[name], n)
		}
		expect := func(name string, want ...int64) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if got := reported[name]; !slices.Equal(got, want) {
				t.Errorf("the %s target was notified of %d bytes, want %d", name, got, want)
			}
		}
		first := &Target{Ctx: t.Context(), Dir: filepath.Join(dir, "first"), Notify: func(n, _ int64) { report("first", n) }}
		running := &transfer{f: f, ended: make(chan struct{}), targets: []*Target{first}, received: 100, pipeline: &pipeline{}}
		running.pipeline.source.received = 150
		f.running[running], f.joinable[transferKey{}] = struct{}{}, running

		release := make(chan struct{})
		second := &Target{Ctx: t.Context(), Dir: filepath.Join(dir, "second"), Notify: func(n, _ int64) {
			report("second", n)
			if n == 100 {
				<-release
			}
		}}
		fetched := make(chan error)
		go func() {
			_, err := f.Fetch(t.Context(), Request{}, second)
			fetched <- err
		}()
		synctest.Wait() // until second blocks in Notify
		expect("second", 100)
		for name, mu := range map[string]*sync.Mutex{"fetcher": &f.mu, "transfer": &running.mu} {
			if !mu.TryLock() {
				t.Fatalf("Notify is called with the mutex of the %s held", name)
			}
			mu.Unlock()
		}
		if st := f.Stats(); st.Transfers != 1 || st.Targets != 2 {
			t.Errorf("%+v", st)
		}
		running.progress(50, 0)
		expect("first", 50)
		expect("second", 100, 50)

		reset := make(chan error)
		go func() { reset <- running.reset() }()
		synctest.Wait() // until reset waits for second
		expect("second", 100, 50)
		close(release)
		if err := <-reset; err != nil {
			t.Error(err)
		}
		expect("first", 50, -150)
		expect("second", 100, 50, -150)
		close(running.ended)
		if err := <-fetched; err != nil {
			t.Error(err)
		}
	})
}
