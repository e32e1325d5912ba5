package snapshotter

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// slots decides which layers are in work, so that an image with many layers, or
// with a slow registry, does not delay other images. It is a plain value;
// slotKeeper runs it.
//
//   - At most `most` layers are in work whose bytes arrive. A slow layer, or
//     one that no caller waits for, continues but does not count.
//   - At most `most + spare` layers are in work together. If a layer of another
//     image waits and only layers that do not count take up the slots, one of
//     them yields (see yielder): its attempt is cancelled, keeps its
//     checkpoint, and queues again.
//   - The next slot goes to an image that a caller waits for, then to the image
//     with the fewest layers in work, then to the image whose last grant is the
//     oldest; within an image, in order. A layer that several images share has
//     the best rank of theirs.
//   - A slow layer that another image waits for as well yields, to resume from
//     the registry of that image; see handsOver.
//
// So a layer waits only for layers ahead of it that receive bytes. A layer that
// has received almost no bytes for `stall` fails.
type slots struct {
	most, spare int
	stall       time.Duration // negative for no limit

	waiting   []*ticket
	running   []*ticket
	lastGrant map[string]int // by image, in grants
	grants    int            // counts granted slots
}

const (
	// slowRate, in bytes per second, is the rate that a layer needs to keep its
	// slot while others wait. It is far below the share of a node's link for
	// each of a few layers.
	slowRate = 64 << 10
	// stallRate, in bytes per second, is so low that the pull would take days.
	// A registry that sends less does not work.
	stallRate = 1 << 10
	// samplePeriod is the time between two samples of a layer. It spans several
	// round trips.
	samplePeriod = 2 * time.Second
)

// ticket is one layer's request for a slot.
type ticket struct {
	image   string   // of the attempt
	sharers []string // images that have the layer and that callers wait for
	wanted  bool     // a caller waits for the layer
	// slice is the time that the image has for its attempt while it is slow and
	// another image has the layer.
	slice time.Duration
	// slow is set if the rate since the last sample was below slowRate because
	// of the network, or because the layer is paced.
	slow    bool
	paced   bool // the rate of a prefetch held up the layer since the last sample
	yielded bool // the attempt was cancelled

	granted    time.Time // when the ticket got its slot
	sampled    time.Time // when bytes was recorded
	bytes      int64     // received at the last sample
	stalled    time.Time // start of the time with less than stallRate
	stallBytes int64     // received at that time
}

// sample describes a layer in work.
type sample struct {
	bytes   int64 // received from the network
	waiting bool  // the layer waits for the network
	held    bool  // the rate of a prefetch holds up the layer
}

func newSlots(most int, stall time.Duration) *slots {
	return &slots{most: most, spare: most, stall: stall, lastGrant: make(map[string]int)}
}

// add queues a ticket.
func (s *slots) add(c *ticket) { s.waiting = append(s.waiting, c) }

// remove removes a ticket from the queue or from its slot.
func (s *slots) remove(c *ticket) {
	is := func(o *ticket) bool { return o == c }
	s.waiting = slices.DeleteFunc(s.waiting, is)
	s.running = slices.DeleteFunc(s.running, is)
	if !slices.ContainsFunc(s.running, c.sameImage) && !slices.ContainsFunc(s.waiting, c.sameImage) {
		delete(s.lastGrant, c.image)
	}
}

func (c *ticket) sameImage(o *ticket) bool { return o.image == c.image }

// shared reports whether callers wait for the layer through another image.
func (c *ticket) shared() bool {
	return slices.ContainsFunc(c.sharers, func(image string) bool { return image != c.image })
}

// counts reports whether a ticket in work counts against most.
func (c *ticket) counts() bool { return c.wanted && !c.slow && !c.yielded }

// next grants slots. It returns the tickets that got one, and the ticket that
// must yield before more can be granted, or nil.
func (s *slots) next(now time.Time) (granted []*ticket, yields *ticket) {
	for len(s.waiting) > 0 && s.count() < s.most {
		c := slices.MinFunc(s.waiting, s.before)
		if len(s.running) >= s.most+s.spare {
			return granted, s.yielder(c)
		}
		s.waiting = slices.DeleteFunc(s.waiting, func(o *ticket) bool { return o == c })
		s.running = append(s.running, c)
		s.grants++
		s.lastGrant[c.image] = s.grants
		c.granted, c.sampled, c.stalled = now, now, now
		granted = append(granted, c)
	}
	return granted, nil
}

// count returns the number of layers in work that count against most.
func (s *slots) count() (n int) {
	for _, c := range s.running {
		if c.counts() {
			n++
		}
	}
	return n
}

// before orders the queue. Equal tickets keep their order, because MinFunc
// returns the first.
func (s *slots) before(a, b *ticket) int {
	if a.wanted != b.wanted {
		if a.wanted {
			return -1
		}
		return 1
	}
	aHeld, aLast := s.rank(a)
	bHeld, bLast := s.rank(b)
	return cmp.Or(cmp.Compare(aHeld, bHeld), cmp.Compare(aLast, bLast))
}

// rank returns the number of layers in work of a ticket's image, and the number
// of its last grant. If several images share the layer, it returns the rank of
// the image with the fewest layers in work.
func (s *slots) rank(c *ticket) (held, last int) {
	held, last = s.held(c.image), s.lastGrant[c.image]
	for _, image := range c.sharers {
		h, l := s.held(image), s.lastGrant[image]
		if cmp.Or(cmp.Compare(h, held), cmp.Compare(l, last)) < 0 {
			held, last = h, l
		}
	}
	return held, last
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

// yielder returns the ticket in work that must yield to c: one that no caller
// waits for, or else the one longest in work. It returns nil while another
// ticket is yielding.
func (s *slots) yielder(c *ticket) (v *ticket) {
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

// record records a sample of a ticket in work, and reports whether the layer
// has stalled.
func (s *slots) record(c *ticket, now time.Time, is sample) (stalled bool) {
	if is.bytes < c.bytes { // the fetch has restarted
		c.bytes, c.sampled = is.bytes, now
	}
	if is.bytes < c.stallBytes || !is.waiting || is.held || float64(is.bytes-c.stallBytes) >= stallRate*s.stall.Seconds() {
		c.stallBytes, c.stalled = is.bytes, now
	}
	if past := now.Sub(c.sampled); past >= samplePeriod {
		c.slow = (is.waiting || is.held) && float64(is.bytes-c.bytes) < slowRate*past.Seconds()
		c.paced = is.held
		c.bytes, c.sampled = is.bytes, now
	}
	return s.stall >= 0 && now.Sub(c.stalled) >= s.stall
}

// handsOver reports whether an attempt must end so that the next one uses another
// image, because the registry of this image is slow and a caller waits for an
// image of another repository that has the layer. If so, it marks the ticket as
// yielded.
func (c *ticket) handsOver(now time.Time) bool {
	if c.yielded || !c.slow || c.paced || successor(c.sharers, c.image) == c.image || now.Sub(c.granted) < c.slice {
		return false
	}
	c.yielded = true
	return true
}

// successor returns the image of the next attempt at a layer. images are those
// that have the layer, in the order in which they joined. Starting after last,
// in rotation, successor returns the first image of another repository. If there
// is no such image, it returns last.
func successor(images []string, last string) string {
	at := slices.Index(images, last)
	for i := range images {
		if next := images[(at+1+i)%len(images)]; repository(next) != repository(last) {
			return next
		}
	}
	return last
}

// repository returns the repository of an image's name.
func repository(image string) string {
	name, _, _ := strings.Cut(image, "@")
	return name
}

// attemptSlice returns the time for which an attempt may be slow if other images
// have the layer. attempts is the number of earlier attempts, images the number
// of images. The time doubles with each round over the images. So the layer is
// finished even if all registries are slow, and an image whose registry is slow
// for a moment gets its next attempt after at most as long for each other image
// as it had itself.
func attemptSlice(attempts, images int) time.Duration {
	const most = 20 // doublings, to more than two weeks
	return samplePeriod << min(attempts/max(1, images), most)
}
