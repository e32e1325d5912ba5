package topology

import (
	"testing"

	"pgregory.net/rapid"
)

// TestPlanIsATree checks on random plans what the data plane relies on: every
// worker has one parent that lists it as a child, and the leader is reached.
func TestPlanIsATree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 500).Draw(t, "workers")
		arity := rapid.IntRange(0, 9).Draw(t, "arity")
		kind := rapid.SampledFrom([]Kind{Auto, Chain, Tree}).Draw(t, "kind")
		load := Load{Bytes: rapid.Int64Range(0, 1<<40).Draw(t, "bytes"), BlockBytes: 1 << 20}
		p, err := Make(n, Shape{Kind: kind, Arity: arity}, load)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for node := 0; node <= n; node++ {
			for _, c := range p.Children(node) {
				seen++
				if p.Parent(c) != node {
					t.Fatalf("%v: node %d lists child %d whose parent is %d", p.Shape(), node, c, p.Parent(c))
				}
			}
			if a := p.Ancestors(node); node > 0 && a[len(a)-1] != Leader {
				t.Fatalf("%v: ancestors of %d are %v", p.Shape(), node, a)
			}
			if d := len(p.Ancestors(node)); d > p.Depth() {
				t.Fatalf("%v: node %d is deeper (%d) than Depth %d", p.Shape(), node, d, p.Depth())
			}
		}
		if seen != n {
			t.Fatalf("%v: %d workers have a parent, want %d", p.Shape(), seen, n)
		}
	})
}

func TestMakeRefuses(t *testing.T) {
	for _, c := range []struct {
		n  int
		sh Shape
	}{{0, Shape{}}, {-1, Shape{}}, {MaxNodes + 1, Shape{}}, {1, Shape{Kind: Tree, Arity: MaxArity + 1}}, {1, Shape{Arity: -1}}} {
		if _, err := Make(c.n, c.sh, Load{}); err == nil {
			t.Errorf("Make(%d, %+v) gave no error", c.n, c.sh)
		}
	}
}
