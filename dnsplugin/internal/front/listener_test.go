package front

import "testing"

// Servers start in goroutines of their own, so after two reloads at once the
// server of the instance in between may start last. It must not take the sockets,
// because it would answer from a cache that no query fills any more.
func TestLateInstanceTakesNoSockets(t *testing.T) {
	const addr = "dns://127.0.0.1:53"
	server := func(order uint64, released bool) *Server {
		return &Server{Addr: addr, Home: &Instance{order: order, released: released}}
	}
	newest := server(3, false)
	r := &Registry{ByAddr: map[string]*Listener{addr: {Server: newest}}}
	for name, late := range map[string]*Server{
		"an older instance":              server(2, false),
		"an older one that has ended":    server(2, true),
		"a later one that ended at once": server(4, true),
	} {
		if err := r.Serve(late, ""); err != nil || r.ByAddr[addr].Server != newest {
			t.Errorf("%s took the sockets, or failed: %v", name, err)
		}
	}
	r = &Registry{ByAddr: map[string]*Listener{}}
	if err := r.Serve(server(1, true), ""); err != nil || len(r.ByAddr) > 0 {
		t.Errorf("an instance that has ended opened sockets, or failed: %v", err)
	}
}
