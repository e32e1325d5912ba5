//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"testing"

	"github.com/coredns/coredns/core/dnsserver"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/front"
)

// succession plays the steps of reloads in an order of the test's choice: in a
// process the servers of an instance start in goroutines of their own.
type succession struct {
	t    *testing.T
	port string
	r    *front.Registry
}

func newSuccession(t *testing.T) *succession {
	s := &succession{t: t, port: fastPort(t), r: &front.Registry{ByAddr: map[string]*front.Listener{}}}
	t.Cleanup(func() {
		s.r.Mu.Lock()
		defer s.r.Mu.Unlock()
		for addr, l := range s.r.ByAddr {
			if l.Expiry != nil {
				l.Expiry.Stop()
			}
			if err := s.r.CloseLocked(addr, l)(); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

// instance announces a new instance at the address.
func (s *succession) instance() *front.Server {
	s.t.Helper()
	b := bareServer(s.t, Config{}, variety())
	b.Addr = "dns://127.0.0.1:" + s.port
	s.r.Claim(b.cache.front, &dnsserver.Config{ListenHosts: []string{"127.0.0.1"}, Port: s.port, Transport: "dns"})
	return b.Server
}

func (s *succession) serve(f *front.Server) {
	s.t.Helper()
	f.Workers = nil // Serve makes them again for the sockets
	if err := s.r.Serve(f, ""); err != nil {
		s.t.Fatal(err)
	}
}

func (s *succession) end(f *front.Server) {
	s.t.Helper()
	if err := s.r.Release(f.Home); err != nil {
		s.t.Fatal(err)
	}
}

// owner returns what serves the address, and its sockets.
func (s *succession) owner() (*front.Server, *fastpath.Group) {
	if l := s.r.ByAddr["dns://127.0.0.1:"+s.port]; l != nil {
		return l.Server, l.Group
	}
	return nil, nil
}

// A second reload begins before the server of the first one has started: the
// sockets go from one to the next and never close in between.
func TestReloadDuringAReloadKeepsTheSockets(t *testing.T) {
	s := newSuccession(t)
	first := s.instance()
	s.serve(first)
	_, sockets := s.owner()
	second := s.instance()
	third := s.instance()
	s.serve(second) // late
	s.end(first)
	s.end(second) // the third has announced itself: they stay open
	if owner, group := s.owner(); owner != second || group != sockets {
		t.Fatal("the sockets have closed between two instances")
	}
	s.serve(third)
	if owner, group := s.owner(); owner != third || group != sockets {
		t.Error("the third instance has not taken over")
	}
	s.end(third)
	if owner, _ := s.owner(); owner != nil {
		t.Error("sockets without an instance")
	}
}

// The server of the instance in between comes when the one after it serves
// already, and when it has ended itself (commit 0106075).
func TestIntermediateInstanceStartsLate(t *testing.T) {
	s := newSuccession(t)
	first := s.instance()
	s.serve(first)
	_, sockets := s.owner()
	second, third := s.instance(), s.instance()
	s.end(first)
	s.serve(third)
	s.end(second)
	s.serve(second)
	if owner, group := s.owner(); owner != third || group != sockets {
		t.Error("an instance that has ended has the sockets")
	}
}

// A reload fails while the server of the instance before has not started yet.
func TestFailedReloadDuringAReloadKeepsTheSuccessor(t *testing.T) {
	s := newSuccession(t)
	first := s.instance()
	s.serve(first)
	_, sockets := s.owner()
	second := s.instance()
	failed := s.instance()
	s.end(failed)
	s.r.Disclaim(second.Home)
	s.end(first)
	if owner, group := s.owner(); owner != first || group != sockets {
		t.Fatal("the sockets have closed before the second instance came")
	}
	s.serve(second)
	if owner, group := s.owner(); owner != second || group != sockets {
		t.Fatal("the second instance has not taken over")
	}
	s.end(second) // there is no successor, so they close at once
	if owner, _ := s.owner(); owner != nil {
		t.Error("sockets wait for an instance that has failed")
	}
}

// A reload fails in the usual way: the next end of the instance closes its sockets.
func TestFailedReloadLeavesNoSuccessor(t *testing.T) {
	s := newSuccession(t)
	first := s.instance()
	s.serve(first)
	s.instance()
	s.r.Disclaim(first.Home)
	s.end(first)
	if owner, _ := s.owner(); owner != nil {
		t.Error("sockets wait for an instance that has failed")
	}
}
