package snapshotter

import "sync"

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
