package dnsplugin

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// The order in which an instance takes hold of the resources of the process;
// it lets go of them in the reverse order. newProcess gives the reasons.
func TestProcessHookOrder(t *testing.T) {
	var names []string
	for _, h := range newProcess().hooks {
		names = append(names, h.name)
	}
	if got := strings.Join(names, " "); got != "entries headroom control snapshot refreshes sockets" {
		t.Errorf("%s", got)
	}
}

func TestProcessRunsHooksInOrder(t *testing.T) {
	var calls []string
	call := func(what, name string) { calls = append(calls, what+" "+name) }
	failing := errors.New("taken")
	p := &process{}
	for _, name := range []string{"a", "b", "c", "d"} {
		h := hook{name: name, release: func(*member) error { call("release", name); return errors.New(name) }}
		if name != "b" { // a hook need not have all functions
			h.start = func(m *member) error {
				call("start", name)
				if name == "c" && m.place == "wrong" {
					return failing
				}
				return nil
			}
			h.offer = func(*member) { call("offer", name) }
			h.rollback = func(*member) { call("rollback", name) }
		}
		p.hooks = append(p.hooks, h)
	}
	check := func(want ...string) {
		t.Helper()
		if !slices.Equal(calls, want) {
			t.Errorf("%q, want %q", calls, want)
		}
		calls = nil
	}
	if err := p.start(&member{}); err != nil {
		t.Error(err)
	}
	check("start a", "start c", "start d")
	if err := p.start(&member{place: "wrong"}); !errors.Is(err, failing) {
		t.Errorf("%v", err)
	}
	check("start a", "start c")
	p.offer(&member{})
	check("offer a", "offer c", "offer d")
	p.rollback(&member{})
	check("rollback d", "rollback c", "rollback a")
	if err := p.release(&member{}); err == nil || err.Error() != "d\nc\nb\na" {
		t.Errorf("%v", err)
	}
	check("release d", "release c", "release b", "release a")
}
