//penstock:pure

package ranges

// A pattern decides whether reads at any offset are sequential. Its owner's lock
// guards it.
//
// A run is a series of reads that continue each other. Reads start as random and
// are sequential from the third read of a run on. They stay sequential until the
// third read in a row that is elsewhere.
type pattern struct {
	sequential bool
	expected   int64 // offset of the next read of the run; -1 before the first read
	run        int64 // bytes of the run
	continued  int   // reads that continued the run exactly
	strays     int   // reads elsewhere since the last read of the run
}

// An access is a pattern's decision about one read.
type access uint8

const (
	accessRandom     access = iota // the read is outside a sequential run
	accessSequential               // the read belongs to a sequential run
	accessSeek                     // the read ends a sequential run and starts another run
)

// sequentialReads is how many reads make a run sequential, and how many strays
// end it. Two neighbours do occur by chance among random reads, three hardly
// ever do.
const sequentialReads = 3

// reorderBytes is how far a read may be off the expected offset and still belong
// to a sequential run. The kernel sends the read-ahead requests of one file from
// several threads, up to a few requests out of order.
const reorderBytes = 4 << 20

func newPattern() pattern { return pattern{expected: -1} }

// read records a read of [off, off+n). fetched is how many bytes beyond the run
// are being fetched ahead; a read among them belongs to the run.
func (p *pattern) read(off, n, fetched int64) access {
	switch {
	case p.expected < 0:
	case off == p.expected:
		p.continued++
		p.extend(off + n)
		p.sequential = p.sequential || p.continued >= sequentialReads-1
		if p.sequential {
			return accessSequential
		}
		return accessRandom
	case p.sequential && off >= p.expected-reorderBytes && off <= p.expected+max(fetched, reorderBytes):
		p.extend(off + n)
		return accessSequential
	case p.sequential && p.strays+1 < sequentialReads:
		// The run may continue after a late read, or a read of the object's index.
		p.strays++
		return accessRandom
	}
	seek := p.sequential
	*p = pattern{expected: off + n, run: n}
	if seek {
		return accessSeek
	}
	return accessRandom
}

// extend adds the bytes up to end to the run.
func (p *pattern) extend(end int64) {
	if end > p.expected {
		p.run += end - p.expected
		p.expected = end
	}
	p.strays = 0
}
