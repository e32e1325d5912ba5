package snapshotter

import "sync"

// syncer flushes the file system of a directory. A running flush may miss the
// data that a caller has just written, so callers during a flush share the next
// one.
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

// sync returns after a flush that started after the call.
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
		return s.runFlush(f)
	}
	s.next = f
	s.mu.Unlock()
	<-before.done
	s.mu.Lock()
	s.running, s.next = f, nil
	s.mu.Unlock()
	return s.runFlush(f)
}

func (s *syncer) runFlush(f *flushing) error {
	f.err = s.flush()
	s.mu.Lock()
	if s.running == f {
		s.running = nil
	}
	s.mu.Unlock()
	close(f.done)
	return f.err
}
