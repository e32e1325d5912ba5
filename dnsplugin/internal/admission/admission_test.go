package admission

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// smallLimits make the shares of scripts easy to see: of 120 long ones a zone
// gets 96, the names below a top level domain 80, those below two labels 60.
var smallLimits = Limits{
	Quick: 600, Long: 120, Reserve: 20, Queued: 50, Groups: 64,
	LongAfter: 100 * time.Millisecond, Wait: time.Second,
}

// admissionScript plays commands on an admission:
//
//	ask N NAME       N queries, % in the name is a number; "zone:NAME" for another zone than ".".
//	                 Prints how many began and how many wait.
//	fast NAME        one query that ends at once if it begins
//	cached N NAME    queries that will not wait for a source
//	end N NAME       the oldest N of those that run, by the NAME that they were asked by
//	after DURATION   time goes on; those that wait begin if they may
//
// Every result ends with the state.
type admissionScript struct {
	*Control
	now     time.Time
	running map[string][]*Place
	names   map[*Place]string
	n       int
}

func newAdmissionScript(l Limits) *admissionScript {
	return &admissionScript{Control: New(l), now: time.Unix(1e9, 0), running: map[string][]*Place{}, names: map[*Place]string{}}
}

func (s *admissionScript) place(name string) *Place {
	zone, rest, other := strings.Cut(name, ":")
	if !other {
		zone, rest = ".", name
	}
	s.n++
	text := strings.ReplaceAll(rest, "%", strconv.Itoa(s.n))
	pack := func(name string) []byte {
		m := new(dns.Msg)
		m.SetQuestion(name, dns.TypeA)
		p, err := m.Pack()
		if err != nil {
			panic(err)
		}
		return wire.AppendName(nil, p)
	}
	p := &Place{}
	s.Control.Assign(p, len(zone), pack(text), len(pack(zone)))
	s.names[p] = name
	return p
}

func (s *admissionScript) run(line string) string {
	f := strings.Fields(line)
	count := 1
	if len(f) == 3 {
		count, _ = strconv.Atoi(f[1])
	}
	name := f[len(f)-1]
	var began, waits, dropped int
	switch f[0] {
	case "ask", "fast", "cached":
		for range count {
			p := s.place(name)
			var ok bool
			if f[0] == "cached" {
				ok = s.BeginAtOnce(p, s.now)
			} else {
				ok = s.Begin(p, s.now)
			}
			switch {
			case !ok && f[0] != "ask":
				s.Leave(p)
			case !ok:
				s.Wait(p, s.now)
				waits++
			case f[0] == "fast":
				began++
				s.End(p, s.now)
			default:
				began++
				s.running[name] = append(s.running[name], p)
			}
		}
	case "end":
		for _, p := range s.running[name][:count] {
			s.End(p, s.now)
		}
		s.running[name] = s.running[name][count:]
	case "after":
		d, err := time.ParseDuration(name)
		if err != nil {
			panic(err)
		}
		s.now = s.now.Add(d)
	}
	if f[0] != "ask" {
		for p := s.StartNext(s.now, Probes); p != nil; p = s.StartNext(s.now, Probes) {
			s.running[s.names[p]] = append(s.running[s.names[p]], p)
			began++
		}
	}
	dropped = len(s.TakeDropped())
	out := fmt.Sprintf("began %d", began)
	if waits-dropped > 0 {
		out += fmt.Sprintf(" wait %d", waits)
	}
	if dropped > 0 {
		out += fmt.Sprintf(" dropped %d", dropped)
	}
	return out + fmt.Sprintf("; quick %d long %d queued %d", s.Quick, s.Long, s.Queued)
}

func TestAdmissionScripts(t *testing.T) {
	for name, script := range map[string]string{
		"a silent zone leaves room for all others": `
			ask 100 n%.evil.         | began 80 wait 20; quick 80 long 0 queued 20
			after 100ms              | began 0; quick 0 long 80 queued 20
			fast p.svc.cluster.local.| began 1; quick 0 long 80 queued 20
			fast p.good.             | began 1; quick 0 long 80 queued 20
			ask 8 s%.slow.           | began 8; quick 8 long 80 queued 20
			after 100ms              | began 0; quick 0 long 88 queued 20
			ask 1 other.:n%.other.   | began 1; quick 1 long 88 queued 20
			fast q.svc.cluster.local.| began 1; quick 1 long 88 queued 20
			fast q.good.             | began 1; quick 1 long 88 queued 20
			end 10 n%.evil.          | began 4; quick 5 long 78 queued 16
		`,
		"a dead upstream for all but the cluster's names": `
			ask 50 a%.com.           | began 50; quick 50 long 0 queued 0
			ask 60 a%.org.           | began 46 wait 14; quick 96 long 0 queued 14
			after 100ms              | began 0; quick 0 long 96 queued 14
			ask 5 a%.com.            | began 0 wait 5; quick 0 long 96 queued 19
			ask 5 a%.svc.cluster.local.| began 1 wait 4; quick 1 long 96 queued 23
			end 1 a%.svc.cluster.local.| began 2; quick 2 long 96 queued 21
			ask 9 a%.svc.cluster.local.| began 0 wait 9; quick 2 long 96 queued 30
			ask 3 a%.net.            | began 1 wait 2; quick 3 long 96 queued 32
			ask 3 corp.:a%.corp.     | began 3; quick 6 long 96 queued 32
			cached 5 a%.net.         | began 5; quick 11 long 96 queued 32
		`,
		"proof from before the outage is worth nothing": `
			fast a.com.              | began 1; quick 0 long 0 queued 0
			ask 60 b%.org.           | began 60; quick 60 long 0 queued 0
			ask 60 b%.net.           | began 36 wait 24; quick 96 long 0 queued 24
			after 100ms              | began 0; quick 0 long 96 queued 24
			ask 2 a%.com.            | began 1 wait 1; quick 1 long 96 queued 25
			after 100ms              | began 0; quick 0 long 97 queued 25
			ask 2 a%.com.            | began 0 wait 2; quick 0 long 97 queued 27
		`,
		"when the reserve is used up, a few try at a time, half of them known": `
			fast a%.known.           | began 1; quick 0 long 0 queued 0
			cached 140 b%.org.       | began 140; quick 140 long 0 queued 0
			after 100ms              | began 0; quick 0 long 140 queued 0
			ask 1 a%.a.              | began 1; quick 1 long 140 queued 0
			ask 1 a%.b.              | began 1; quick 2 long 140 queued 0
			ask 1 a%.c.              | began 1; quick 3 long 140 queued 0
			ask 1 a%.d.              | began 1; quick 4 long 140 queued 0
			ask 1 a%.e.              | began 0 wait 1; quick 4 long 140 queued 1
			ask 1 x.y.e.             | began 0 wait 1; quick 4 long 140 queued 2
			ask 1 a%.known.          | began 1; quick 5 long 140 queued 2
			end 1 a%.known.          | began 0; quick 4 long 140 queued 2
			ask 20 a%.known.         | began 2 wait 18; quick 6 long 140 queued 20
			after 100ms              | began 2; quick 2 long 146 queued 18
		`,
		"below one top level domain": `
			ask 70 n%.evil.com.      | began 60 wait 10; quick 60 long 0 queued 10
			after 100ms              | began 0; quick 0 long 60 queued 10
			ask 5 n%.evil.com.       | began 0 wait 5; quick 0 long 60 queued 15
			ask 10 www%.good.com.    | began 10; quick 10 long 60 queued 15
		`,
		"an attacker who answers quickly at first gets twice as many as that": `
			ask 60 b%.org.           | began 60; quick 60 long 0 queued 0
			ask 60 b%.net.           | began 36 wait 24; quick 96 long 0 queued 24
			after 100ms              | began 0; quick 0 long 96 queued 24
			fast n.evil.             | began 1; quick 0 long 96 queued 24
			fast n.evil.             | began 1; quick 0 long 96 queued 24
			ask 9 n%.evil.           | began 4 wait 5; quick 4 long 96 queued 29
			after 100ms              | began 0; quick 0 long 100 queued 29
			ask 9 n%.evil.           | began 0 wait 9; quick 0 long 100 queued 38
		`,
		"those that wait for too long are dropped, and groups take turns": `
			cached 130 b%.org.       | began 130; quick 130 long 0 queued 0
			after 100ms              | began 0; quick 0 long 130 queued 0
			ask 3 b%.org.            | began 0 wait 3; quick 0 long 130 queued 3
			ask 4 a%.net.            | began 1 wait 3; quick 1 long 130 queued 6
			after 500ms              | began 0; quick 0 long 131 queued 6
			ask 1 b%.org.            | began 0 wait 1; quick 0 long 131 queued 7
			after 500ms              | began 0 dropped 6; quick 0 long 131 queued 1
			end 80 b%.org.           | began 1; quick 1 long 51 queued 0
		`,
		"the queue drops the oldest of the names that fill it": `
			ask 130 b%.org.          | began 80 wait 50 dropped 10; quick 80 long 0 queued 40
			ask 4 n%.net.            | began 4; quick 84 long 0 queued 40
			after 100ms              | began 0; quick 0 long 84 queued 40
			ask 4 m%.net.            | began 4; quick 4 long 84 queued 40
		`,
	} {
		t.Run(name, func(t *testing.T) {
			s := newAdmissionScript(smallLimits)
			for line := range strings.Lines(script) {
				cmd, want, ok := strings.Cut(line, "|")
				if !ok {
					continue
				}
				if got := s.run(cmd); got != strings.TrimSpace(want) {
					t.Errorf("%s: %s\nwant %s", strings.TrimSpace(cmd), got, strings.TrimSpace(want))
				}
			}
		})
	}
}

// Whatever is asked: counts hold, nothing is lost, and in the end nothing is left.
func TestAdmissionInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{Quick: 20, Long: 12, Reserve: 4, Queued: 10, Groups: 8, LongAfter: 100 * time.Millisecond, Wait: time.Second}
		s := newAdmissionScript(l)
		asked, gone := 0, 0
		names := []string{".", "a.", "n%.a.", "n%.b.a.", "n%.c.b.a.", "x.:n%.x.", "n%."}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			name := rapid.SampledFrom(names).Draw(t, "name")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				s.now = s.now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "ms")) * time.Millisecond)
			case 1:
				if all := s.running[name]; len(all) > 0 {
					s.End(all[0], s.now)
					s.running[name] = all[1:]
					gone++
				}
			default:
				p := s.place(name)
				asked++
				if s.Begin(p, s.now) {
					s.running[name] = append(s.running[name], p)
				} else {
					s.Wait(p, s.now)
				}
			}
			for p := s.StartNext(s.now, Probes); p != nil; p = s.StartNext(s.now, Probes) {
				s.running[s.names[p]] = append(s.running[s.names[p]], p)
			}
			gone += len(s.TakeDropped())
			run := 0
			for _, all := range s.running {
				run += len(all)
			}
			if run != s.Quick+s.Long || asked-gone != run+s.Queued || s.Queued > l.Queued || s.Quick > l.Quick || s.Quick+s.Long >= 2*(l.Long+l.Reserve)+l.Quick || s.tries > maxTries {
				t.Fatalf("asked %d gone %d run %d: %+v", asked, gone, run, s.Control)
			}
			if s.idle > l.Groups || len(s.groups) > s.idle+maxLevels*(run+s.Queued) {
				t.Fatalf("%d groups for %d queries", len(s.groups), run+s.Queued)
			}
		}
		for _, all := range s.running {
			for _, p := range all {
				s.End(p, s.now)
			}
		}
		s.now = s.now.Add(time.Hour)
		for s.Queued > 0 {
			if p := s.StartNext(s.now, Probes); p != nil {
				s.End(p, s.now)
			}
		}
		for _, g := range s.groups {
			if g.refs != 0 || g.quick != 0 || g.long != 0 || g.queue.len() != 0 || g.waiting {
				t.Fatalf("%+v", g)
			}
		}
		if s.Quick != 0 || s.Long != 0 || s.first != nil || s.last != nil || len(s.waiting) != 0 {
			t.Fatalf("%+v", s.Control)
		}
	})
}

func TestPlaceQueue(t *testing.T) {
	t.Parallel()
	var q placeQueue
	in, out := 0, 0
	places := make([]*Place, 5000)
	for i := range places {
		places[i] = &Place{}
	}
	for round := range 40 {
		for range 100 {
			q.push(places[in])
			in++
		}
		for range 60 + round%3 {
			if q.pop() != places[out] {
				t.Fatal("order")
			}
			out++
		}
		if q.len() != in-out {
			t.Fatal(q.len())
		}
	}
	for ; out < in; out++ {
		if q.peek() != places[out] || q.pop() != places[out] {
			t.Fatal("order")
		}
	}
}

// The groups of a name: its zone, then up to three labels below it, but never
// the whole name.
func TestGroupsOfAName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		zone, name string
		want       []string
	}{
		{".", "kubernetes.default.svc.cluster.local.", []string{"local.", "cluster.local.", "svc.cluster.local."}},
		{".", "WWW.Example.org.", []string{"org.", "example.org."}},
		{".", "example.", []string{"*"}},
		{".", ".", []string{"*"}},
		{"corp.example.", "www.corp.example.", []string{"*"}},
		{"corp.example.", "a.b.corp.example.", []string{"b.corp.example."}},
		{"corp.example.", "corp.example.", []string{"*"}},
	} {
		s := newAdmissionScript(smallLimits)
		p := s.place(c.zone + ":" + c.name)
		var got []string
		for _, g := range p.path[1:p.n] {
			name, _, err := dns.UnpackDomainName([]byte(g.key[2:]), 0)
			if err != nil {
				t.Fatal(err)
			}
			if g.key[2:] == "\x00" {
				name = "*"
			}
			got = append(got, name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s in %s: %q, want %q", c.name, c.zone, got, c.want)
		}
	}
}
