package snapshotter

import (
	"cmp"
	"slices"
	"time"
)

// slots decides which layers are in work, so that no image keeps another one waiting: neither one
// with many layers, nor one whose bytes trickle in. It is a plain value; slotKeeper runs it.
//
//   - At most `most` layers are in work whose bytes come. A layer whose bytes do not come (it is
//     slow), or for which no caller waits, goes on, but does not count.
//   - At most `most + spare` are in work together. When a layer of another image waits and
//     only layers that do not count are in its way, the one longest in work yields: it is cancelled,
//     keeps what it has done, and waits in line again.
//   - The next slot goes to an image that a caller waits for, then to the image with the fewest layers
//     in work, then to the one whose last turn is the longest ago; within an image, in order.
//
// So a layer waits no longer than the others take that are ahead of it and whose bytes come; and a
// layer that has brought next to nothing for `stall` fails.
type slots struct {
	most, spare int
	stall       time.Duration // negative: never

	waiting []*ticket
	running []*ticket
	turns   map[string]int // by image: when it was last given a slot
	turn    int
}

const (
	// leastRate in bytes a second is what a layer must bring to keep its slot when others wait. It
	// is far below what a link of a node gives to each of a few layers.
	leastRate = 64 << 10
	// crawlRate is so little that the pull would take days: that layer's registry is not working.
	crawlRate = 1 << 10
	// lookAt is the time between two looks at what has come. It spans several round trips.
	lookAt = 2 * time.Second
)

// ticket is one layer's wish for a slot.
type ticket struct {
	image  string
	wanted bool // a caller waits for it
	// slow: since the last look its bytes came at less than leastRate, though nothing here held
	// them up.
	slow    bool
	yielded bool // it was told to end

	looked time.Time // at the last look
	bytes  int64     // and how many had come
	crawls time.Time // since when less than crawlRate came
	crawl  int64     // and how many had come then
}

// sample is what is known of a layer in work.
type sample struct {
	bytes   int64 // that have come from the network
	waiting bool  // the layer waits for the network
	held    bool  // its bytes are held up on purpose, by the rate of a prefetch
}

func newSlots(most int, stall time.Duration) *slots {
	return &slots{most: most, spare: most, stall: stall, turns: make(map[string]int)}
}

// add puts a ticket in line.
func (s *slots) add(c *ticket) { s.waiting = append(s.waiting, c) }

// remove takes a ticket out, wherever it is.
func (s *slots) remove(c *ticket) {
	is := func(o *ticket) bool { return o == c }
	s.waiting = slices.DeleteFunc(s.waiting, is)
	s.running = slices.DeleteFunc(s.running, is)
	if !slices.ContainsFunc(s.running, c.sameImage) && !slices.ContainsFunc(s.waiting, c.sameImage) {
		delete(s.turns, c.image)
	}
}

func (c *ticket) sameImage(o *ticket) bool { return o.image == c.image }

// counts reports whether a ticket in work counts against most.
func (c *ticket) counts() bool { return c.wanted && !c.slow && !c.yielded }

// next returns the tickets that get a slot now, and one that has to yield before there can be more; nil
// if none.
func (s *slots) next(now time.Time) (granted []*ticket, yields *ticket) {
	for len(s.waiting) > 0 && s.count() < s.most {
		c := slices.MinFunc(s.waiting, s.before)
		if len(s.running) >= s.most+s.spare {
			return granted, s.victim(c)
		}
		s.waiting = slices.DeleteFunc(s.waiting, func(o *ticket) bool { return o == c })
		s.running = append(s.running, c)
		s.turn++
		s.turns[c.image] = s.turn
		c.looked, c.crawls = now, now
		granted = append(granted, c)
	}
	return granted, nil
}

func (s *slots) count() (n int) {
	for _, c := range s.running {
		if c.counts() {
			n++
		}
	}
	return n
}

// before orders tickets in line. Equal ones keep their order: MinFunc returns the first.
func (s *slots) before(a, b *ticket) int {
	if a.wanted != b.wanted {
		if a.wanted {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(s.held(a), s.held(b)), cmp.Compare(s.turns[a.image], s.turns[b.image]))
}

// held counts the layers in work of a ticket's image.
func (s *slots) held(c *ticket) (n int) {
	for _, o := range s.running {
		if c.sameImage(o) {
			n++
		}
	}
	return n
}

// victim returns the ticket in work that has to yield to c: one that nobody waits for, else the one
// that is longest in work. It is nil while another one is yielding.
func (s *slots) victim(c *ticket) (v *ticket) {
	for _, o := range s.running {
		switch {
		case o.yielded:
			return nil
		case o.counts() || c.sameImage(o):
		case v == nil || v.wanted && !o.wanted:
			v = o
		}
	}
	if v != nil {
		v.yielded = true
	}
	return v
}

// look takes note of how the bytes of a ticket in work come, and reports whether the layer has stalled
// for good.
func (s *slots) look(c *ticket, now time.Time, is sample) (stalled bool) {
	if is.bytes < c.bytes { // it began again
		c.bytes, c.looked = is.bytes, now
	}
	if is.bytes < c.crawl || !is.waiting || is.held || float64(is.bytes-c.crawl) >= crawlRate*s.stall.Seconds() {
		c.crawl, c.crawls = is.bytes, now
	}
	if past := now.Sub(c.looked); past >= lookAt {
		c.slow = (is.waiting || is.held) && float64(is.bytes-c.bytes) < leastRate*past.Seconds()
		c.bytes, c.looked = is.bytes, now
	}
	return s.stall >= 0 && now.Sub(c.crawls) >= s.stall
}
