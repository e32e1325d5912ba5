package dnsplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/caddy"
	clog "github.com/coredns/coredns/plugin/pkg/log"
)

const (
	// controlMode lets nobody in but the user of the server, and root.
	controlMode = 0o600
	// controlTimeout is how long a client of the control may take to send a
	// request, and controlDump how long to read the answer.
	controlTimeout = 5 * time.Second
	controlDump    = time.Minute
	// controlAwait is how often a socket that the process before this one has
	// is tried for.
	controlAwait = 200 * time.Millisecond
	// controlGrace is how long requests may go on when the socket is closed.
	controlGrace = time.Second
	// controlPathLen is what the shortest sun_path of all systems holds.
	controlPathLen = 103
)

// controls are the control sockets of this process. On a reload a socket goes
// from one instance to the next without being closed.
var controls = controlSet{byPath: map[string]*control{}, awaiting: map[*Cache]bool{}}

type controlSet struct {
	mu     sync.Mutex // guards all but owner of the controls
	byPath map[string]*control
	// awaiting are instances whose socket another process has yet.
	awaiting map[*Cache]bool
}

// control is one socket.
type control struct {
	owner   atomic.Pointer[Cache] // whose entries it shows
	before  *Cache                // owner until the reload that is under way; nil: there was no socket
	offered bool                  // the owner is about to be replaced
	fresh   bool                  // claimed in this reload, which may still fail

	server *http.Server
	served chan struct{} // closed when the server has ended
	gate   sync.RWMutex  // held for reading by requests; guards closed
	closed bool
}

// claim makes c the owner of its control socket.
func (s *controlSet) claim(c *Cache) error {
	path := c.cfg.Control
	s.mu.Lock()
	defer s.mu.Unlock()
	ctl := s.byPath[path]
	switch {
	case ctl == nil && warms.has(path):
		return fmt.Errorf("control %s: warm has this path: give each a path of its own", path)
	case ctl == nil:
		var err error
		ctl, err = openControl(path, c)
		if errors.Is(err, errControlTaken) && caddy.IsUpgrade() {
			// The process before this one has it until it ends (SIGUSR2).
			s.awaiting[c] = true
			go s.await(c)
			return nil
		}
		if err != nil {
			return fmt.Errorf("control %s: %w", path, err)
		}
		s.byPath[path] = ctl
	case !ctl.offered:
		return fmt.Errorf("control %s: another server block has it already: give each a path of its own", path)
	default:
		ctl.before = ctl.owner.Swap(c)
	}
	ctl.offered, ctl.fresh = false, true
	return nil
}

// await makes c the owner of its socket when the process that has it has ended.
func (s *controlSet) await(c *Cache) {
	t := time.NewTicker(controlAwait)
	defer t.Stop()
	for {
		select {
		case <-c.life.Done():
			return
		case <-t.C:
		}
		if done, err := s.inherit(c); done {
			return
		} else if err != nil && !errors.Is(err, errControlTaken) {
			clog.NewWithPlugin(c.name).Warningf("control %s: %v", c.cfg.Control, err)
			return
		}
	}
}

// inherit tries once to make c the owner of its socket.
func (s *controlSet) inherit(c *Cache) (done bool, err error) {
	path := c.cfg.Control
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.awaiting[c] {
		return true, nil
	}
	if s.byPath[path] != nil {
		return false, errControlTaken // by the instance before c, which ends
	}
	ctl, err := openControl(path, c)
	if err != nil {
		return false, err
	}
	s.byPath[path] = ctl
	delete(s.awaiting, c)
	return true, nil
}

// has reports whether path is that of a control socket.
func (s *controlSet) has(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.byPath {
		if realPath(p) == path {
			return true
		}
	}
	return false
}

// offer lets the next instance claim what c has.
func (s *controlSet) offer(c *Cache) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ctl := range s.byPath {
		ctl.fresh, ctl.before = false, nil
		if ctl.owner.Load() == c {
			ctl.offered = true
		}
	}
}

// rollback undoes what the instance of a failed reload has claimed.
func (s *controlSet) rollback() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, ctl := range s.byPath {
		ctl.offered = false
		switch {
		case ctl.fresh && ctl.before != nil:
			ctl.owner.Store(ctl.before)
			ctl.fresh, ctl.before = false, nil
		case ctl.fresh:
			delete(s.byPath, path)
			ctl.close()
		}
	}
}

// release closes the socket of c, unless another instance has it by now.
func (s *controlSet) release(c *Cache) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.awaiting, c)
	for path, ctl := range s.byPath {
		if ctl.owner.Load() == c {
			delete(s.byPath, path)
			ctl.close()
		}
	}
}

func openControl(path string, c *Cache) (*control, error) {
	if err := clearStale(path); err != nil {
		return nil, err
	}
	l, err := listenPrivately(path)
	if err != nil {
		return nil, err
	}
	ctl := &control{served: make(chan struct{})}
	ctl.owner.Store(c)
	warnings := clog.NewWithPlugin(c.name)
	ctl.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctl.gate.RLock()
			defer ctl.gate.RUnlock()
			if !ctl.closed {
				ctl.owner.Load().controlled(w, r)
			}
		}),
		ReadTimeout:    controlTimeout,
		WriteTimeout:   controlDump,
		IdleTimeout:    controlTimeout,
		MaxHeaderBytes: 1 << 14,
		ErrorLog:       slog.NewLogLogger(warner{warnings}.handler(), slog.LevelWarn),
	}
	go func() {
		defer close(ctl.served)
		if err := ctl.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			warnings.Warningf("control %s: %v", path, err)
		}
	}()
	return ctl, nil
}

// errControlTaken is what opening a control fails with while a process listens there.
var errControlTaken = errors.New("another process listens there: stop it, or give another path")

// clearStale removes the socket that a killed process has left. It touches
// nothing that is in use or is no socket.
func clearStale(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode()&os.ModeSocket == 0:
		return errors.New("there is something that is not a socket: remove it, or give another path")
	}
	d := net.Dialer{Timeout: controlTimeout}
	conn, err := d.DialContext(context.Background(), "unix", path)
	if err == nil {
		return errors.Join(errControlTaken, conn.Close())
	}
	return os.Remove(path)
}

// close removes the socket and returns when its requests have ended.
func (ctl *control) close() {
	ctx, cancel := context.WithTimeout(context.Background(), controlGrace)
	defer cancel()
	if ctl.server.Shutdown(ctx) != nil {
		_ = ctl.server.Close() // what still runs finds its connection closed
	}
	<-ctl.served
	ctl.gate.Lock()
	defer ctl.gate.Unlock()
	ctl.closed = true
}

// warner writes lines of the HTTP server to the log of CoreDNS.
type warner struct{ log clog.P }

func (w warner) handler() slog.Handler {
	return slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{} // the log of CoreDNS has both
		}
		return a
	}})
}

// Write implements io.Writer.
func (w warner) Write(b []byte) (int, error) {
	w.log.Warning("control: " + strings.TrimSpace(string(b)))
	return len(b), nil
}
