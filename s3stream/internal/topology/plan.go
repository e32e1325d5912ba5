//penstock:pure

package topology

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Leader is the node number of the leader in every plan.
const Leader = 0

// Kind is the family of a shape.
type Kind uint8

const (
	// Auto picks the chain or the tree that the cost model calls fastest.
	Auto Kind = iota
	// Chain makes node i the parent of node i+1: full rate at every node, and
	// a pipeline that takes one block time per node to fill.
	Chain
	// Tree makes a complete k-ary tree: a shallow pipeline, but an inner node
	// sends each byte k times, so a full link gives each child one k-th.
	Tree
)

// String returns "auto", "chain" or "tree".
func (k Kind) String() string {
	switch k {
	case Auto:
		return "auto"
	case Chain:
		return "chain"
	case Tree:
		return "tree"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Shape is what the caller asks for. The zero value is Auto.
type Shape struct {
	Kind Kind
	// Arity is the number of children of an inner node of a Tree; 0 means
	// DefaultArity. It means nothing for the other kinds.
	Arity int
}

// DefaultArity is the arity of a tree for which none was given. Two keeps the
// loss of rate smallest: with every link full, each child gets half.
const DefaultArity = 2

// MaxArity bounds a tree's arity: beyond it a parent's link is cut into so
// many pieces that the leader reading for each worker would be no worse.
const MaxArity = 64

// MaxNodes bounds the workers of one plan. A plan keeps a few words per node;
// a larger number in a message is a mistake or an attack, not a cluster.
const MaxNodes = 1 << 20

// ParseShape reads "auto", "chain", "tree" or "tree:K".
func ParseShape(s string) (Shape, error) {
	name, arity, hasArity := strings.Cut(s, ":")
	var sh Shape
	switch name {
	case "", "auto":
		sh.Kind = Auto
	case "chain":
		sh.Kind = Chain
	case "tree":
		sh.Kind = Tree
	default:
		return Shape{}, fmt.Errorf("topology %q: want auto, chain, tree or tree:K", s)
	}
	if !hasArity {
		return sh, nil
	}
	if sh.Kind != Tree {
		return Shape{}, fmt.Errorf("topology %q: only a tree takes a number of children", s)
	}
	if _, err := fmt.Sscanf(arity, "%d", &sh.Arity); err != nil || fmt.Sprint(sh.Arity) != arity {
		return Shape{}, fmt.Errorf("topology %q: %q is not a number of children", s, arity)
	}
	if sh.Arity < 1 || sh.Arity > MaxArity {
		return Shape{}, fmt.Errorf("topology %q: a tree has 1 to %d children per node", s, MaxArity)
	}
	return sh, nil
}

// String writes a shape as ParseShape reads it.
func (s Shape) String() string {
	if s.Kind == Tree && s.Arity > 0 {
		return fmt.Sprintf("tree:%d", s.Arity)
	}
	return s.Kind.String()
}

// Load is what will be sent; the cost model of Auto needs it.
type Load struct {
	Bytes      int64 // all objects together
	BlockBytes int64 // the unit that is forwarded
}

// Plan says who sends to whom. It is immutable.
type Plan struct {
	shape Shape // resolved: never Auto
	arity int   // children per inner node; 1 for a chain
	nodes int   // workers; node numbers go from 0 to nodes
}

// Make plans a broadcast from the leader to n workers.
func Make(n int, shape Shape, load Load) (Plan, error) {
	switch {
	case n < 1:
		return Plan{}, errors.New("topology: a broadcast needs at least one worker")
	case n > MaxNodes:
		return Plan{}, fmt.Errorf("topology: %d workers are more than the %d that one plan holds", n, MaxNodes)
	case shape.Arity < 0 || shape.Arity > MaxArity:
		return Plan{}, fmt.Errorf("topology: arity %d is not between 1 and %d", shape.Arity, MaxArity)
	}
	if shape.Kind == Auto {
		shape = cheapest(n, load)
	}
	p := Plan{shape: shape, arity: 1, nodes: n}
	if shape.Kind == Tree {
		if shape.Arity == 0 {
			p.shape.Arity = DefaultArity
		}
		p.arity = p.shape.Arity
	}
	return p, nil
}

// hopBytes is what a link could have carried while one hop's latency passes:
// about 50 us at 12.5 GB/s. It only matters between a long chain of small
// blocks and a tree, where it may be wrong by a factor of two unnoticed.
const hopBytes = 625_000

// cheapest compares the time to the last byte at the last node, in bytes at
// link rate (the rate itself cancels out): a chain takes the load once plus
// one block and one hop per node; a k-ary tree takes it k times, since an
// inner node's link is shared by k children, plus k blocks and a hop per level.
func cheapest(n int, load Load) Shape {
	d, b := float64(max(load.Bytes, 1)), float64(max(load.BlockBytes, 1))
	chain := d + float64(n-1)*(b+hopBytes)
	depth := math.Ceil(math.Log2(float64(n + 1)))
	tree := DefaultArity*d + (depth-1)*(DefaultArity*b+hopBytes)
	if tree < chain {
		return Shape{Kind: Tree, Arity: DefaultArity}
	}
	return Shape{Kind: Chain}
}

// Shape returns the shape that was chosen, never Auto.
func (p Plan) Shape() Shape { return p.shape }

// Workers returns the number of workers.
func (p Plan) Workers() int { return p.nodes }

// Parent returns the node that sends to node; the leader has none and gets -1.
func (p Plan) Parent(node int) int {
	if node <= Leader || node > p.nodes {
		return -1
	}
	return (node - 1) / p.arity
}

// Children returns the nodes that node sends to, in order.
func (p Plan) Children(node int) []int {
	if node < 0 || node > p.nodes {
		return nil
	}
	var c []int
	for i := node*p.arity + 1; i <= min(node*p.arity+p.arity, p.nodes); i++ {
		c = append(c, i)
	}
	return c
}

// Ancestors returns the parent of node, its parent, and so on up to the leader.
func (p Plan) Ancestors(node int) []int {
	var a []int
	for q := p.Parent(node); q >= 0; q = p.Parent(q) {
		a = append(a, q)
	}
	return a
}

// Depth returns the number of hops from the leader to the farthest worker.
func (p Plan) Depth() int {
	// In both shapes the last node is one of the deepest.
	return len(p.Ancestors(p.nodes))
}

// Member is a worker as it joined, before it has a node number.
type Member struct {
	Rank int    // the launcher's rank; negative if it gave none
	Name string // host name or what the user called it
	Addr string // where its children reach it
}

// Order sorts members into node order: known ranks first and ascending, then
// by name and address, so that a restart with the same members gives the same
// plan whatever order they joined in. Member i of the result is node i+1.
func Order(m []Member) []int {
	idx := make([]int, len(m))
	for i := range idx {
		idx[i] = i
	}
	slices.SortStableFunc(idx, func(i, j int) int {
		a, b := m[i], m[j]
		switch {
		case (a.Rank < 0) != (b.Rank < 0):
			if a.Rank < 0 {
				return 1
			}
			return -1
		case a.Rank >= 0 && a.Rank != b.Rank:
			return a.Rank - b.Rank
		case a.Name != b.Name:
			return strings.Compare(a.Name, b.Name)
		}
		return strings.Compare(a.Addr, b.Addr)
	})
	return idx
}
