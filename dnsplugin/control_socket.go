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
	// controlMode admits only the user of the server, and root.
	controlMode = 0o600
	// controlTimeout is how long a client may take to send a request, and
	// controlDump how long to read the reply.
	controlTimeout = 5 * time.Second
	controlDump    = time.Minute
	// controlAwait is the pause between two attempts to open a socket that an
	// earlier process still holds.
	controlAwait = 200 * time.Millisecond
	// controlGrace is how long requests may run after the socket is closed.
	controlGrace = time.Second
	// controlPathLen is the length of the shortest sun_path of all systems.
	controlPathLen = 103
)

// controlSet holds the control sockets of a process. On a reload a socket passes
// from one instance to the next without being closed.
type controlSet struct {
	mu     sync.Mutex // guards all but owner of the controls
	byPath map[string]*control
	// awaiting are instances whose socket another process still holds.
	awaiting map[*Cache]bool

	isSnapshot func(path string) bool // a snapshot is kept at path
}

// control is one socket.
type control struct {
	owner   atomic.Pointer[Cache] // the instance whose entries it shows
	before  *Cache                // owner before the running reload; nil if there was no socket
	offered bool                  // a reload is about to replace the owner
	fresh   bool                  // claimed in the running reload, which may still fail

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
	case ctl == nil && s.isSnapshot(path):
		return fmt.Errorf("control %s: warm has this path: give each a path of its own", path)
	case ctl == nil:
		var err error
		ctl, err = openControl(path, c)
		if errors.Is(err, errControlTaken) && caddy.IsUpgrade() {
			// In an upgrade (SIGUSR2) the old process holds it until it ends.
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

// await makes c the owner of its socket once the process that holds it has ended.
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
		return false, errControlTaken // by the previous instance, which is ending
	}
	ctl, err := openControl(path, c)
	if err != nil {
		return false, err
	}
	s.byPath[path] = ctl
	delete(s.awaiting, c)
	return true, nil
}

// has reports whether there is a control socket at path.
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

// offer lets the next instance claim the socket of c.
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

// rollback undoes the claims of a failed reload.
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

// release closes the socket of c, unless another instance has claimed it.
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

// errControlTaken says that a process listens at the path of a control.
var errControlTaken = errors.New("another process listens there: stop it, or give another path")

// clearStale removes the socket of a killed process. It does not remove a
// socket that is in use, or any other file.
func clearStale(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode()&os.ModeSocket == 0:
		return errors.New("the file there is not a socket: remove it, or give another path")
	}
	d := net.Dialer{Timeout: controlTimeout}
	conn, err := d.DialContext(context.Background(), "unix", path)
	if err == nil {
		return errors.Join(errControlTaken, conn.Close())
	}
	return os.Remove(path)
}

// close removes the socket and waits until its requests have ended.
func (ctl *control) close() {
	ctx, cancel := context.WithTimeout(context.Background(), controlGrace)
	defer cancel()
	if ctl.server.Shutdown(ctx) != nil {
		_ = ctl.server.Close() // requests that still run find their connection closed
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
