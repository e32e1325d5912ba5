//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"testing"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
)

// An answerer replies as the chain does, allocates nothing, and leaves to the
// caller what is not in the cache.
func TestAnswererRepliesAsTheChain(t *testing.T) {
	b := bareServer(t, Config{}, variety())
	a, err := b.cache.front.NewAnswerer(b.Server.Server)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	hint, buf := uint32(0), make([]byte, 0, fastpath.MaxMessage)
	b.tcp = true
	p := wireOf(t, question("many.example.org.", dns.TypeA))
	if _, ok := a.Answer(&hint, p, buf, true); ok {
		t.Fatal("an answer from an empty cache")
	}
	b.chain(p)
	reply, ok := a.Answer(&hint, p, buf, true)
	if want := b.chain(p); !ok || !sameMessage(t, reply, want) {
		t.Fatalf("%v %x\nchain %x", ok, reply, want)
	}
	if n := testing.AllocsPerRun(100, func() { a.Answer(&hint, p, buf, true) }); n != 0 {
		t.Errorf("%v allocations per answer", n)
	}
	if _, ok := a.Answer(&hint, p, make([]byte, 0, 100), true); ok {
		t.Error("a reply longer than the buffer")
	}
}
