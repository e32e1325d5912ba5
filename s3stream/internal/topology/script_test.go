package topology

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestScripts runs testdata: each script shows a decision and the plan or
// state that follows from it.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var backups *Backups
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "plan":
				return runPlan(t, d)
			case "choose":
				return runChoose(t, d)
			case "order":
				return runOrder(d)
			case "shape":
				return runShape(d)
			case "backups":
				n, node := 0, 0
				d.ScanArgs(t, "workers", &n)
				d.ScanArgs(t, "node", &node)
				p, err := Make(n, shapeArg(t, d), Load{})
				if err != nil {
					return err.Error()
				}
				backups = NewBackups(p, node)
				return show(backups)
			case "fail", "progress", "lost":
				var node int
				if _, err := fmt.Sscanf(strings.TrimSpace(d.Input), "%d", &node); err != nil {
					t.Fatal(err)
				}
				if d.Cmd == "progress" {
					backups.Progress(node)
				} else {
					backups.Fail(node)
				}
				return show(backups)
			}
			t.Fatalf("unknown command %s", d.Cmd)
			return ""
		})
	})
}

func show(b *Backups) string {
	n, ok := b.Next()
	if !ok {
		return "nobody is left to ask"
	}
	return fmt.Sprintf("ask %s", name(n))
}

func name(node int) string {
	if node == Leader {
		return "leader"
	}
	return fmt.Sprint(node)
}

func shapeArg(t *testing.T, d *datadriven.TestData) Shape {
	t.Helper()
	s := "auto"
	d.MaybeScanArgs(t, "shape", &s)
	sh, err := ParseShape(s)
	if err != nil {
		t.Fatal(err)
	}
	return sh
}

func runPlan(t *testing.T, d *datadriven.TestData) string {
	n, bytes := 0, int64(1<<30)
	d.ScanArgs(t, "workers", &n)
	d.MaybeScanArgs(t, "bytes", &bytes)
	p, err := Make(n, shapeArg(t, d), Load{Bytes: bytes, BlockBytes: 1 << 20})
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s, depth %d\n", p.Shape(), p.Depth())
	for node := 0; node <= p.Workers(); node++ {
		fmt.Fprintf(&b, "%s sends to %v, backups %v\n", name(node), p.Children(node), p.Ancestors(node))
	}
	return b.String()
}

func runChoose(t *testing.T, d *datadriven.TestData) string {
	var b strings.Builder
	for line := range strings.Lines(d.Input) {
		var n int
		var l Load
		if _, err := fmt.Sscanf(line, "workers=%d bytes=%d block=%d", &n, &l.Bytes, &l.BlockBytes); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		p, err := Make(n, Shape{}, l)
		if err != nil {
			fmt.Fprintln(&b, err)
			continue
		}
		fmt.Fprintf(&b, "%s, depth %d\n", p.Shape(), p.Depth())
	}
	return b.String()
}

func runOrder(d *datadriven.TestData) string {
	var m []Member
	for line := range strings.Lines(d.Input) {
		f := strings.Fields(line)
		mem := Member{Name: f[1], Addr: f[2]}
		_, _ = fmt.Sscanf(f[0], "%d", &mem.Rank)
		m = append(m, mem)
	}
	var b strings.Builder
	for node, i := range Order(m) {
		fmt.Fprintf(&b, "%d is %s at %s\n", node+1, m[i].Name, m[i].Addr)
	}
	return b.String()
}

func runShape(d *datadriven.TestData) string {
	var b strings.Builder
	for line := range strings.Lines(d.Input) {
		sh, err := ParseShape(strings.TrimSpace(line))
		if err != nil {
			fmt.Fprintln(&b, err)
			continue
		}
		fmt.Fprintln(&b, sh)
	}
	return b.String()
}
