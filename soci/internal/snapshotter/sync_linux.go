package snapshotter

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// syncer flushes the file system of a directory. A flush that has begun may have
// passed over what a caller has just written, so callers who come while one runs
// share the next one.
type syncer struct {
	flush func() error

	mu      sync.Mutex
	running *flushing
	next    *flushing
}

type flushing struct {
	done chan struct{}
	err  error
}

// syncFS returns a flush of the file system of dir.
func syncFS(dir string) func() error {
	return func() error {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Syncfs(int(f.Fd())); err != nil {
			return fmt.Errorf("syncfs %s: %w", dir, err)
		}
		return nil
	}
}

// sync returns when a flush has ended that began after the call.
func (s *syncer) sync() error {
	s.mu.Lock()
	if f := s.next; f != nil {
		s.mu.Unlock()
		<-f.done
		return f.err
	}
	f, before := &flushing{done: make(chan struct{})}, s.running
	if before == nil {
		s.running = f
		s.mu.Unlock()
		return s.run(f)
	}
	s.next = f
	s.mu.Unlock()
	<-before.done
	s.mu.Lock()
	s.running, s.next = f, nil
	s.mu.Unlock()
	return s.run(f)
}

func (s *syncer) run(f *flushing) error {
	f.err = s.flush()
	s.mu.Lock()
	if s.running == f {
		s.running = nil
	}
	s.mu.Unlock()
	close(f.done)
	return f.err
}
