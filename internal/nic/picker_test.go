package nic

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"
)

// TestPicker runs the scripts of testdata/picker. Commands:
//
//	init NAME[/4][/6] ...   a picker with these locals
//	next REMOTE ...         pick for these remotes; count=N repeats, tried keeps
//	                        the picks of one dial apart
//	ok|fail|done PAIR       report on a pair, written local>remote
//	advance DURATION        let time pass
//	state                   print all pairs
func TestPicker(t *testing.T) {
	var p *picker
	var now time.Time
	datadriven.RunTest(t, "testdata/picker", func(t *testing.T, d *datadriven.TestData) string {
		switch d.Cmd {
		case "init":
			var locals []pickLocal
			for _, a := range d.CmdArgs {
				name, families, _ := strings.Cut(a.Key, "/")
				locals = append(locals, pickLocal{
					name: name,
					v4:   families != "6", v6: families != "4",
				})
			}
			p, now = newPicker(locals), time.Unix(0, 0)
			return ""
		case "next":
			var remotes []netip.AddrPort
			count, dial := 1, false
			for _, a := range d.CmdArgs {
				switch a.Key {
				case "count":
					fmt.Sscan(a.Vals[0], &count)
				case "dial":
					dial = true
				default:
					remotes = append(remotes, netip.AddrPortFrom(netip.MustParseAddr(a.Key), 80))
				}
			}
			var out strings.Builder
			var tried []pair
			for range count {
				c, ok := p.next(now, remotes, tried)
				if !ok {
					out.WriteString("none\n")
					break
				}
				if dial {
					tried = append(tried, c)
				}
				fmt.Fprintln(&out, p.show(c))
			}
			return out.String()
		case "ok", "fail", "done":
			for _, a := range d.CmdArgs {
				c := p.parse(t, a.Key)
				switch d.Cmd {
				case "ok":
					p.succeeded(c)
				case "fail":
					p.failed(now, c)
					p.done(c)
				case "done":
					p.done(c)
				}
			}
			return ""
		case "advance":
			by, err := time.ParseDuration(d.CmdArgs[0].Key)
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(by)
			return ""
		case "state":
			var lines []string
			for c, s := range p.pairs {
				line := fmt.Sprintf("%s active=%d failures=%d", p.show(c), s.active, s.failures)
				if s.until.After(now) {
					line += fmt.Sprintf(" aside=%v", s.until.Sub(now))
				}
				lines = append(lines, line)
			}
			slices.Sort(lines)
			return strings.Join(lines, "\n")
		}
		t.Fatalf("unknown command %q", d.Cmd)
		return ""
	})
}

func (p *picker) show(c pair) string {
	return p.locals[c.local].name + ">" + c.remote.Addr().String()
}

func (p *picker) parse(t *testing.T, s string) pair {
	name, remote, ok := strings.Cut(s, ">")
	i := slices.IndexFunc(p.locals, func(l pickLocal) bool { return l.name == name })
	if !ok || i < 0 {
		t.Fatalf("bad pair %q", s)
	}
	return pair{i, netip.AddrPortFrom(netip.MustParseAddr(remote), 80)}
}

// TestPickerCounts drives a picker at random and checks its invariants against
// a plain list of the open connections.
func TestPickerCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		locals := rapid.IntRange(1, 3).Draw(t, "locals")
		p := newPicker(make([]pickLocal, locals))
		for i := range p.locals {
			p.locals[i] = pickLocal{v4: true}
		}
		var remotes []netip.AddrPort
		for i := range rapid.IntRange(1, 4).Draw(t, "remotes") {
			remotes = append(remotes, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1))
		}
		now := time.Unix(0, 0)
		var open []pair
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0, 1:
				c, ok := p.next(now, remotes, nil)
				if !ok {
					t.Fatal("nothing picked")
				}
				open = append(open, c)
			case 2:
				if len(open) > 0 {
					i := rapid.IntRange(0, len(open)-1).Draw(t, "close")
					if rapid.Bool().Draw(t, "failed") {
						p.failed(now, open[i])
					}
					p.done(open[i])
					open = slices.Delete(open, i, i+1)
				}
			case 3:
				now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "s")) * time.Second)
			}
			perLocal, perRemote := make([]int, locals), map[netip.AddrPort]int{}
			for _, c := range open {
				perLocal[c.local]++
				perRemote[c.remote]++
			}
			if !slices.Equal(perLocal, p.localActive) || fmt.Sprint(perRemote) != fmt.Sprint(p.remoteActive) {
				t.Fatalf("counts %v %v, want %v %v", p.localActive, p.remoteActive, perLocal, perRemote)
			}
		}
	})
}

func TestPickerForgets(t *testing.T) {
	p := newPicker([]pickLocal{{v4: true}})
	now := time.Unix(0, 0)
	for i := range 3 * maxPairs {
		c, _ := p.next(now, []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), uint16(i>>16+1))}, nil)
		if i%2 == 0 {
			p.failed(now, c)
		}
		p.done(c)
	}
	if len(p.pairs) > maxPairs {
		t.Errorf("%d pairs remembered, at most %d", len(p.pairs), maxPairs)
	}
}
