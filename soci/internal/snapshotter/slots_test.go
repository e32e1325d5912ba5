package snapshotter

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// slotScript runs commands on slots, one per line, and returns their effects:
//
//	add IMAGE N     queue N layers of an image with a waiting caller: IMAGE1, IMAGE2, ...
//	quit IMAGE      the last caller of the image leaves
//	share L I ...   callers wait for the images I, which all have layer L
//	turn L N        the next attempt at layer L follows N others
//	look D L=B ...  D later, B bytes of layer L have arrived, and it waits for the network
//	hold D L=B      the same, but our own rate holds up the layer
//	busy D L=B      the same, but the layer does not wait for the network
//	done L          a layer has ended, or no longer needs its slot
func slotScript(t *testing.T, most int, stall time.Duration, script string) string {
	t.Helper()
	s, now := newSlots(most, stall), time.Unix(0, 0)
	layers, names, count := make(map[string]*ticket), make(map[*ticket]string), make(map[string]int)
	var out strings.Builder
	for line := range strings.SplitSeq(strings.TrimSpace(script), "\n") {
		f := strings.Fields(line)
		var did []string
		switch f[0] {
		case "add":
			n, _ := strconv.Atoi(f[2])
			for range n {
				count[f[1]]++
				c := &ticket{image: f[1], wanted: true}
				name := f[1] + strconv.Itoa(count[f[1]])
				layers[name], names[c] = c, name
				s.add(c)
			}
		case "quit":
			for c := range names {
				if c.image == f[1] {
					c.wanted = false
				}
			}
		case "share":
			layers[f[1]].sharers = f[2:]
		case "turn":
			c := layers[f[1]]
			n, _ := strconv.Atoi(f[2])
			c.slice = attemptSlice(n, len(c.sharers))
		case "look", "hold", "busy":
			d, err := time.ParseDuration(f[1])
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(d)
			for _, pair := range f[2:] {
				name, bytes, _ := strings.Cut(pair, "=")
				n, _ := strconv.ParseInt(bytes, 10, 64)
				if s.record(layers[name], now, sample{bytes: n, waiting: f[0] != "busy", held: f[0] == "hold"}) {
					did = append(did, name+" stalled")
				}
				if c := layers[name]; c.handsOver(now) {
					did = append(did, name+" to "+successor(c.sharers, c.image))
				}
			}
		case "done":
			s.remove(layers[f[1]])
		default:
			t.Fatalf("%q", line)
		}
		granted, yields := s.next(now)
		for _, c := range granted {
			did = append(did, "start "+names[c])
		}
		if yields != nil {
			did = append(did, "yield "+names[yields])
		}
		fmt.Fprintf(&out, "%s: %s\n", strings.Join(f, " "), strings.Join(did, ", "))
	}
	return out.String()
}

func TestSlots(t *testing.T) {
	for _, tc := range []struct {
		name, script string
	}{
		{"images take turns", `
add a 4: start a1, start a2
add b 2:
done a1: start b1
done a2: start a3
done b1: start b2
done b2: start a4
`},
		{"one image after the other, when there is one", `
add a 3: start a1, start a2
done a2: start a3
`},
		{"a layer that brings too little leaves its slot", `
add a 3: start a1, start a2
add b 1:
look 1s a1=10 a2=10:
look 1s a1=20 a2=20: start b1, start a3
`},
		{"one that is fast again counts again", `
add a 2: start a1, start a2
look 2s a1=0 a2=200000:
add b 3: start b1
look 2s a1=9000000 a2=900000 b1=900000:
done b1:
done a1: start b2
`},
		{"work that waits for the disk is no reason", `
add a 2: start a1, start a2
add b 1:
busy 20s a1=10 a2=10:
done a1: start b1
`},
		{"a prefetch with a low rate gives way", `
add a 2: start a1, start a2
add b 1:
hold 2s a1=10 a2=10: start b1
`},
		{"what nobody waits for gives way, and comes last", `
add a 3: start a1, start a2
add b 3:
quit a: start b1, start b2
done b1: start b3
done b3: start a3
done b2:
`},
		{"slow images together: at most twice as many in work, then the longest yields", `
add a 2: start a1, start a2
add b 2:
look 2s a1=0 a2=0: start b1, start b2
add c 1:
look 2s a1=0 a2=0 b1=0 b2=0: yield a1
look 1s a2=0 b1=0 b2=0:
done a1: start c1
`},
		{"what nobody waits for yields first", `
add a 2: start a1, start a2
add b 2:
look 2s a1=0 a2=0: start b1, start b2
quit b:
add c 1: yield b1
`},
		{"an image does not yield to itself", `
add a 6: start a1, start a2
look 2s a1=0 a2=0: start a3, start a4
look 2s a1=0 a2=0 a3=0 a4=0:
`},
		{"next to nothing for a minute is the end", `
add a 1: start a1
look 30s a1=30000:
look 29s a1=59000:
look 1s a1=61000: a1 stalled
`},
		{"a little is not", `
add a 1: start a1
look 59s a1=61440:
look 59s a1=100000:
look 1s a1=122880:
look 59s a1=122881:
look 1s a1=122882: a1 stalled
`},
		{"nor is what we hold up", `
add a 1: start a1
hold 90s a1=1:
busy 90s a1=1:
look 59s a1=1:
look 1s a1=1: a1 stalled
`},
		{"a slow layer resumes from another image that has it", `
add a 1: start a1
share a1 a b c:
look 1s a1=10:
look 1s a1=20: a1 to b
look 2s a1=30:
`},
		{"also when its own has gone, and at once when the other one comes late", `
add a 1: start a1
look 60s a1=61440:
look 9s a1=61441:
share a1 b:
look 1s a1=61442: a1 to b
`},
		{"not one whose bytes come, waits for the disk, or is held up", `
add a 1: start a1
share a1 a b:
look 2s a1=200000:
busy 2s a1=200000:
hold 2s a1=200000:
look 2s a1=200000: a1 to b
`},
		{"nor when nobody waits for another image, or the other one is of the same repository", `
add x/a@1 1: start x/a@11
share x/a@11 x/a@1:
look 2s x/a@11=1:
share x/a@11 x/a@1 x/a@2:
look 2s x/a@11=2:
share x/a@11 x/a@1 x/a@2 y/a@1:
look 2s x/a@11=3: x/a@11 to y/a@1
`},
		{"where all are slow, each has longer than before", `
add a 1: start a1
share a1 a b:
turn a1 4:
look 7s a1=10:
look 1s a1=20: a1 to b
`},
		{"a shared layer has the better place in line of its images", `
add a 4: start a1, start a2
add b 1:
share a4 a c:
done a1: start a4
done a2: start b1
done a4: start a3
`},
		{"a shared layer does not wait for the slow ones of its first image", `
add a 5: start a1, start a2
look 2s a1=0 a2=0: start a3, start a4
look 2s a3=0 a4=0:
share a5 a b: yield a1
done a1: start a5
`},
		{"a fetch that begins again counts from zero", `
add a 1: start a1
look 2s a1=900000:
add b 2: start b1
look 2s a1=500000 b1=900000:
look 2s a1=1000000 b1=1800000:
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var script strings.Builder
			for line := range strings.Lines(strings.TrimSpace(tc.script)) {
				command, _, _ := strings.Cut(line, ":")
				script.WriteString(command + "\n")
			}
			var want strings.Builder
			for line := range strings.Lines(tc.script) {
				if line = strings.TrimSpace(line); line != "" {
					if strings.HasSuffix(line, ":") {
						line += " "
					}
					want.WriteString(line + "\n")
				}
			}
			if got := slotScript(t, 2, time.Minute, script.String()); got != want.String() {
				t.Errorf("got\n%s\nwant\n%s", got, want.String())
			}
		})
	}
}

// TestSlotsForget checks that no state of former images is kept.
func TestSlotsForget(t *testing.T) {
	s := newSlots(1, -1)
	for i := range 10 {
		a, b := &ticket{image: fmt.Sprint(i)}, &ticket{image: fmt.Sprint(i)}
		s.add(a)
		s.add(b)
		s.next(time.Unix(0, 0))
		if s.record(a, time.Unix(1<<30, 0), sample{waiting: true}) {
			t.Error("stalled, though that was turned off")
		}
		s.remove(a)
		s.remove(b)
	}
	if len(s.lastGrant)+len(s.waiting)+len(s.running) != 0 {
		t.Errorf("%+v", s)
	}
}

// TestSuccessor checks that the images of a layer alternate, and that their
// attempts get longer with each round.
func TestSuccessor(t *testing.T) {
	for _, tc := range []struct{ images, last, want string }{
		{"a b c", "a", "b"},
		{"a b c", "c", "a"},
		{"a", "a", "a"},
		{"", "a", "a"},
		{"b c", "a", "b"},
		{"a@1 a@2 b@1", "a@1", "b@1"},
		{"a@2 a@3", "a@1", "a@1"},
	} {
		if got := successor(strings.Fields(tc.images), tc.last); got != tc.want {
			t.Errorf("of %q after %q: %q, want %q", tc.images, tc.last, got, tc.want)
		}
	}
	for _, tc := range []struct {
		attempts, images int
		want             time.Duration
	}{{0, 0, samplePeriod}, {0, 2, samplePeriod}, {1, 2, samplePeriod}, {2, 2, 2 * samplePeriod}, {4, 2, 4 * samplePeriod}, {1 << 40, 1, samplePeriod << 20}} {
		if got := attemptSlice(tc.attempts, tc.images); got != tc.want {
			t.Errorf("%d attempts from %d images: %v, want %v", tc.attempts, tc.images, got, tc.want)
		}
	}
}
