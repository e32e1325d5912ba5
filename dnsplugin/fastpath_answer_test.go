//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"testing"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
)

// The query of an HTTP request is answered as by the chain, without an allocation.
// A query without an entry is left to the caller.
func TestAnswerQueryRepliesAsTheChain(t *testing.T) {
	b := bareServer(t, Config{}, variety())
	b.PrepareStreams(0)
	hint, buf := uint32(0), make([]byte, 0, fastpath.MaxMessage)
	b.tcp = true
	p := wireOf(t, question("many.example.org.", dns.TypeA))
	if _, ok := b.AnswerQuery(&hint, p, buf, true); ok {
		t.Fatal("an answer from an empty cache")
	}
	b.chain(p)
	reply, ok := b.AnswerQuery(&hint, p, buf, true)
	if want := b.chain(p); !ok || !sameMessage(t, reply, want) {
		t.Fatalf("%v %x\nchain %x", ok, reply, want)
	}
	if n := testing.AllocsPerRun(100, func() { b.AnswerQuery(&hint, p, buf, true) }); n != 0 {
		t.Errorf("%v allocations per answer", n)
	}
	if _, ok := b.AnswerQuery(&hint, p, make([]byte, 0, 100), true); ok {
		t.Error("a reply longer than the buffer")
	}
}
