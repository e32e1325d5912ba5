package untar

import (
	"fmt"
	"sync"
)

// Memory bounds the memory for names while images are extracted, in bytes:
// directories, whiteouts, hard links without a target, maps of sparse files.
// All images of a process share it. Its methods are safe for concurrent use.
//
// There is no deadlock, because no caller waits. When the limit is reached, an
// image that asks for memory fails if it holds more than its share. The share is
// the limit divided by the number of images that hold memory. In exchange, the
// sum may exceed the limit, up to twice the limit. An image that would exceed
// that fails whatever its share. One image alone cannot cause this: it holds at
// most the limit, and the others less than the limit while each stays within
// its share.
type Memory struct {
	limit  int64
	notify func(delta int64)

	mu     sync.Mutex // guards the fields below and Meter.held; held during notify
	sum    int64
	images int64 // number of meters that hold memory
}

// NewMemory returns a Memory of limit bytes, or without a limit if that is
// negative. notify, unless nil, is called with each change of the memory that
// is held.
func NewMemory(limit int64, notify func(delta int64)) *Memory {
	if notify == nil {
		notify = func(int64) {}
	}
	return &Memory{limit: limit, notify: notify}
}

// Meter returns a new meter for one image.
func (m *Memory) Meter(l Limits) *Meter { return &Meter{limits: l, mem: m} }

// overLocked reports whether an image that holds the given number of bytes must
// fail. mu must be held.
func (m *Memory) overLocked(held int64) bool {
	over := m.sum - m.limit
	return m.limit >= 0 && over > 0 && (over > m.limit || held > m.limit/max(1, m.images))
}

// adjust adds n bytes, which may be negative, to the memory of an image. If the
// image must fail, it changes nothing and returns an ErrLimit.
func (m *Memory) adjust(image *Meter, n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := image.held
	image.held += n
	m.sum += n
	switch {
	case before == 0 && image.held > 0:
		m.images++
	case before > 0 && image.held == 0:
		m.images--
	}
	if n > 0 && m.overLocked(image.held) {
		image.held, m.sum = before, m.sum-n
		if before == 0 {
			m.images--
		}
		return fmt.Errorf("%w: directories, whiteouts and links of the image take more than %d KiB of memory (limit Metadata, which %d images share now)",
			ErrLimit, before>>10, max(1, m.images))
	}
	m.notify(n)
	return nil
}

// ledger is the share of one extraction in a Memory.
type ledger struct {
	meter *Meter

	mu   sync.Mutex
	used int64 // charged by the extraction
	have int64 // taken from the Memory; at least used
}

// ledgerStep is the number of bytes that a ledger takes from the Memory at a
// time, so that it does not need the shared lock for each name.
const ledgerStep = 16 << 10

// charge adds n stored bytes. A nil ledger counts nothing.
func (l *ledger) charge(n int64) error {
	if l == nil {
		return nil
	}
	n = n * chargeNum / chargeDen
	l.mu.Lock()
	defer l.mu.Unlock()
	if more := l.used + n - l.have; more > 0 {
		step := (more + ledgerStep - 1) / ledgerStep * ledgerStep
		if err := l.meter.mem.adjust(l.meter, step); err != nil {
			return err
		}
		l.have += step
	}
	l.used += n
	return nil
}

// change charges a positive delta and refunds a negative one.
func (l *ledger) change(delta int64) error {
	if delta < 0 {
		l.refund(-delta)
		return nil
	}
	return l.charge(delta)
}

// refund undoes a charge of n bytes.
func (l *ledger) refund(n int64) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used -= n * chargeNum / chargeDen
}

// release returns all memory.
func (l *ledger) release() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.meter.mem.adjust(l.meter, -l.have) // a decrease never fails
	l.used, l.have = 0, 0
}
