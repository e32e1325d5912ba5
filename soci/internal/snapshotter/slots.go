package snapshotter

import (
	"cmp"
	"slices"
	"strings"
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
//     in work, then to the one whose last turn is the longest ago; within an image, in order. A layer
//     that several images share has the best place of theirs.
//   - A slow layer that another image waits for as well yields, to go on from that one's registry: see
//     handsOver.
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
	image   string   // that the attempt comes from
	sharers []string // the images that have the layer, and that callers wait for
	wanted  bool     // a caller waits for it
	// patience is how long the image has for its attempt while it is slow and another one has
	// the layer.
	patience time.Duration
	// slow: since the last look its bytes came at less than leastRate, though nothing here held
	// them up.
	slow    bool
	paced   bool // since the last look its bytes were held up on purpose
	yielded bool // it was told to end

	began  time.Time // when it got its slot
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

// shared reports whether callers wait for the layer on account of another image.
func (c *ticket) shared() bool {
	return slices.ContainsFunc(c.sharers, func(image string) bool { return image != c.image })
}

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
		c.began, c.looked, c.crawls = now, now, now
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
	aHeld, aTurn := s.place(a)
	bHeld, bTurn := s.place(b)
	return cmp.Or(cmp.Compare(aHeld, bHeld), cmp.Compare(aTurn, bTurn))
}

// place returns how many layers in work a ticket's image has, and when its last turn was: of the
// image that has the fewest, where several share the layer.
func (s *slots) place(c *ticket) (held, turn int) {
	held, turn = s.held(c.image), s.turns[c.image]
	for _, image := range c.sharers {
		h, t := s.held(image), s.turns[image]
		if cmp.Or(cmp.Compare(h, held), cmp.Compare(t, turn)) < 0 {
			held, turn = h, t
		}
	}
	return held, turn
}

// held counts the layers in work of an image.
func (s *slots) held(image string) (n int) {
	for _, o := range s.running {
		if o.image == image {
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
		case o.counts() || c.sameImage(o) && !c.shared():
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
		c.paced = is.held
		c.bytes, c.looked = is.bytes, now
	}
	return s.stall >= 0 && now.Sub(c.crawls) >= s.stall
}

// handsOver reports whether an attempt at a layer in work has to end, so that the next one comes from
// another image: the registry of this one is slow, and a caller waits for an image of another repository
// that has the layer.
func (c *ticket) handsOver(now time.Time) bool {
	if c.yielded || !c.slow || c.paced || heir(c.sharers, c.image) == c.image || now.Sub(c.began) < c.patience {
		return false
	}
	c.yielded = true
	return true
}

// heir returns which of the images that have a layer, in the order in which they came, the next attempt
// comes from: the one after the last attempt's that is of another repository; else the same one again.
func heir(images []string, last string) string {
	at := slices.Index(images, last)
	for i := range images {
		if next := images[(at+1+i)%len(images)]; repository(next) != repository(last) {
			return next
		}
	}
	return last
}

// repository is what the images of one repository have in common.
func repository(image string) string {
	name, _, _ := strings.Cut(image, "@")
	return name
}

// patience is how long an image may be slow with a layer that other ones have too, after some
// attempts from as many images. It doubles from round to round: so the layer gets done where all of
// them are slow, and an image whose registry is slow for a moment waits for the others no longer than
// it had itself.
func patience(attempts, images int) time.Duration {
	const most = 20 // two weeks and more
	return lookAt << min(attempts/max(1, images), most)
}
