package dnsload

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// Defaults of Options.
const (
	DefaultFlows       = 16  // as many as dnsperf runs of the research used
	DefaultOutstanding = 400 // enough to keep a server busy, too few to fill its socket buffer
	DefaultTimeout     = 2 * time.Second

	// tick is how often a flow looks for lost answers; the error of a timeout.
	tick = 50 * time.Millisecond

	// socketBuffer is the size of the receive buffers. With the default of
	// 208 KiB the first bursts lose a few answers.
	socketBuffer = 1 << 20

	maxPerFlow = 1 << 12 // outstanding questions of one flow: 4 bits of the ID stay to tell rounds apart
)

// Options of a run.
type Options struct {
	Addr    string  // host:port of the server
	Queries []Query // asked in order, and over again if Count or Duration ask for more

	Count    int64         // how many to ask; 0 means each of Queries once, or no bound if Duration is set
	Duration time.Duration // stop asking after that; 0 means when Count is reached

	Outstanding int           // 0: DefaultOutstanding
	Flows       int           // 0: DefaultFlows
	Timeout     time.Duration // an answer later than this is lost; 0 means DefaultTimeout
	EDNS        uint16        // size to advertise in an OPT; 0 means no OPT
}

// Validate returns an error if an option is out of range.
func (o Options) Validate() error {
	if _, _, err := net.SplitHostPort(o.Addr); err != nil {
		return fmt.Errorf("dnsload: address %q: give host:port: %w", o.Addr, err)
	}
	if len(o.Queries) == 0 {
		return errors.New("dnsload: no queries: give at least one")
	}
	if o.Count < 0 || o.Duration < 0 || o.Timeout < 0 {
		return fmt.Errorf("dnsload: count %d, duration %v and timeout %v must not be negative", o.Count, o.Duration, o.Timeout)
	}
	if o.Flows < 0 || o.Flows > 4096 || o.Outstanding < 0 || o.Outstanding > maxPerFlow*max(1, o.Flows) {
		return fmt.Errorf("dnsload: %d flows and %d outstanding: give at most 4096 flows and %d outstanding for each", o.Flows, o.Outstanding, maxPerFlow)
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Flows == 0 {
		o.Flows = DefaultFlows
	}
	if o.Outstanding == 0 {
		o.Outstanding = DefaultOutstanding
	}
	o.Outstanding = max(o.Outstanding, o.Flows)
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Count == 0 && o.Duration == 0 {
		o.Count = int64(len(o.Queries))
	}
	return o
}

// Result of a run.
type Result struct {
	Sent     int64
	Answered int64            // right ID and question, in time
	Timeouts int64            // no answer in time
	Wrong    int64            // datagrams that answer nothing that was asked of them
	Rcodes   map[string]int64 // answered, by response code
	Elapsed  time.Duration    // from the first question to the last answer
	Latency  Latency
}

// Rate returns the answers per second.
func (r Result) Rate() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Answered) / r.Elapsed.Seconds()
}

// Run sends the questions of o and returns when the last is answered or lost.
// When ctx ends, Run stops at once and returns the result so far with the error
// of ctx.
func Run(ctx context.Context, o Options) (Result, error) {
	if err := o.Validate(); err != nil {
		return Result{}, err
	}
	o = o.withDefaults()
	packets, err := packAll(o.Queries, o.EDNS)
	if err != nil {
		return Result{}, err
	}
	flows := make([]*flow, o.Flows)
	defer func() {
		for _, f := range flows {
			if f != nil {
				f.conn.Close()
			}
		}
	}()
	for i := range flows {
		if flows[i], err = newFlow(ctx, &o, packets, i); err != nil {
			return Result{}, err
		}
	}
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for _, f := range flows {
		group.Go(func() error { return f.run(ctx, start) })
	}
	err = group.Wait()
	return collect(flows, time.Since(start)), err
}

func packAll(queries []Query, edns uint16) ([][]byte, error) {
	packets := make([][]byte, len(queries))
	for i, q := range queries {
		m := new(dns.Msg)
		m.SetQuestion(q.Name, q.Type)
		if edns > 0 {
			m.SetEdns0(edns, false)
		}
		b, err := m.Pack()
		if err != nil {
			return nil, fmt.Errorf("dnsload: query %v: %w", q, err)
		}
		packets[i] = b
	}
	return packets, nil
}

func collect(flows []*flow, elapsed time.Duration) Result {
	r := Result{Rcodes: map[string]int64{}, Elapsed: elapsed}
	var h histogram
	for _, f := range flows {
		r.Sent += f.sent
		r.Answered += f.answered
		r.Timeouts += f.timeouts
		r.Wrong += f.wrong
		h.add(&f.latency)
		for code, n := range f.rcodes {
			if n > 0 {
				r.Rcodes[dns.RcodeToString[code]] += n
			}
		}
	}
	r.Latency = h.summary()
	return r
}

// flow is one socket with its questions under way. One goroutine owns it.
type flow struct {
	o       *Options
	conn    *net.UDPConn
	packets [][]byte
	next    int   // index of the next packet
	quota   int64 // how many are still to be sent; negative means no bound

	slots []slot
	free  []uint16 // indexes of free slots
	buf   []byte   // packet being sent

	sent, answered, timeouts, wrong int64
	rcodes                          [16]int64
	latency                         histogram
}

// slot is a place for one question under way. Its index is in the low bits of
// the ID, its round in the high ones, which distinguishes a late answer from a
// new one.
type slot struct {
	packet []byte // nil: free
	id     uint16
	sent   time.Time
}

func newFlow(ctx context.Context, o *Options, packets [][]byte, index int) (*flow, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("dnsload: %w", err)
	}
	conn := c.(*net.UDPConn)
	_ = conn.SetReadBuffer(socketBuffer) // best effort: capped by net.core.rmem_max
	f := &flow{o: o, conn: conn, packets: packets, buf: make([]byte, 0, 512)}
	f.slots = make([]slot, share(int64(o.Outstanding), o.Flows, index))
	for i := range f.slots {
		f.slots[i].id = uint16(i)
		f.free = append(f.free, uint16(i))
	}
	// Each flow walks through its own stretch of the questions.
	f.next = len(packets) / o.Flows * index
	f.quota = -1
	if o.Count > 0 {
		f.quota = share(o.Count, o.Flows, index)
	}
	return f, nil
}

// share divides n evenly among parts; the first get one more if it does not
// divide.
func share(n int64, parts, index int) int64 {
	s := n / int64(parts)
	if int64(index) < n%int64(parts) {
		s++
	}
	return s
}

func (f *flow) run(ctx context.Context, start time.Time) error {
	// Ending the context wakes a blocked read.
	stop := context.AfterFunc(ctx, func() { f.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	in := make([]byte, 1<<16)
	now := time.Now()
	checked := now // when lost answers were last looked for
	f.conn.SetReadDeadline(now.Add(tick))
	for {
		if f.quota != 0 && f.o.Duration > 0 && now.Sub(start) >= f.o.Duration {
			f.quota = 0
		}
		if err := f.fill(now); err != nil {
			return f.fatal(err)
		}
		if f.quota == 0 && len(f.free) == len(f.slots) {
			return nil
		}
		n, err := f.conn.Read(in)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now = time.Now()
		switch {
		case err == nil:
			f.take(in[:n], now)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return f.fatal(err)
		}
		if now.Sub(checked) >= tick {
			f.expire(now)
			checked = now
			f.conn.SetReadDeadline(now.Add(tick))
			if ctx.Err() != nil { // set between our look and the new deadline
				return ctx.Err()
			}
		}
	}
}

func (f *flow) fatal(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("dnsload: nothing answers at %s: start the server first: %w", f.o.Addr, err)
	}
	return fmt.Errorf("dnsload: %w", err)
}

// fill sends until all slots are taken or nothing is left to send.
func (f *flow) fill(now time.Time) error {
	for len(f.free) > 0 && f.quota != 0 {
		i := f.free[len(f.free)-1]
		s := &f.slots[i]
		s.packet, s.sent = f.packets[f.next], now
		s.id += maxPerFlow
		f.buf = append(f.buf[:0], s.packet...)
		binary.BigEndian.PutUint16(f.buf, s.id)
		if _, err := f.conn.Write(f.buf); err != nil {
			return err
		}
		f.free = f.free[:len(f.free)-1]
		f.sent++
		if f.next++; f.next == len(f.packets) {
			f.next = 0
		}
		if f.quota > 0 {
			f.quota--
		}
	}
	return nil
}

// take accounts for a datagram.
func (f *flow) take(b []byte, now time.Time) {
	if len(b) < 12 {
		f.wrong++
		return
	}
	id := binary.BigEndian.Uint16(b)
	i := int(id % maxPerFlow)
	if i >= len(f.slots) || f.slots[i].packet == nil || f.slots[i].id != id || !answersQuestion(b, f.slots[i].packet) {
		f.wrong++
		return
	}
	s := &f.slots[i]
	f.answered++
	f.rcodes[b[3]&15]++
	f.latency.record(now.Sub(s.sent))
	s.packet = nil
	f.free = append(f.free, uint16(i))
}

// answersQuestion reports whether b is a response that repeats the question
// of the query, letter for letter.
func answersQuestion(b, query []byte) bool {
	end := 12
	for query[end] != 0 {
		end += 1 + int(query[end])
	}
	end += 5
	return b[2]&0x80 != 0 && len(b) >= end && binary.BigEndian.Uint16(b[4:]) == 1 && bytes.Equal(b[12:end], query[12:end])
}

// expire frees the slots whose answers are lost.
func (f *flow) expire(now time.Time) {
	for i := range f.slots {
		if s := &f.slots[i]; s.packet != nil && now.Sub(s.sent) >= f.o.Timeout {
			f.timeouts++
			s.packet = nil
			f.free = append(f.free, uint16(i))
		}
	}
}
