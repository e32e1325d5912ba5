//go:build amd64 || arm64

package fastpath

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Steering is a filter in the kernel that distributes the packets for a group
// to the sockets of the fast path. The filter identifies a socket by its place
// in the group, and places change: the last socket takes the place of one that
// leaves. So places are measured. For a moment the filter sends packets from
// certain ports to certain places; this process sends a packet (or connects)
// from each of those ports, and the sockets report which of them arrived. That
// is repeated when the members of the group change, which the kernel lists in
// /proc/net.

// seat is a socket of the fast path in a group.
type seat struct {
	inode   uint64
	control func(func(fd int)) error
	// looking are the probes to recognise while places are being measured.
	looking atomic.Pointer[probes]
}

// steering is a group of the kernel with its seats. It is guarded by
// steerer.mu.
type steering struct {
	key    groupKey
	local  unix.Sockaddr
	parts  []*part
	seen   []uint64 // the members for which the filter was set, or nil if it must be set again
	size   int      // of the group when the filter was set
	latest []uint64 // the members at the latest read
	// places are the places of the seats when the filter was set, or nil if
	// they are not known.
	places map[*seat]int
	why    error // why not all packets go to the seats, or nil if they do
}

// part is the seats of one Group or Streams in a steering.
type part struct {
	st     *steering
	seats  []*seat
	report func(bool, string)
}

// steerer keeps the filters of all groups of the process up to date.
type steerer struct {
	mu     sync.Mutex // guards all below and the groups; held while places are being measured
	groups map[groupKey]*steering
	nudge  chan struct{}
	stop   chan struct{} // closed to end watch, or nil if it is not running
	done   chan struct{}
}

// steerings is global because the groups are: they belong to the network
// namespace.
var steerings = &steerer{groups: map[groupKey]*steering{}, nudge: make(chan struct{}, 1)}

// Recheck makes the places be measured again soon. It should be called when
// sockets of the process have been opened or closed, and does not wait.
func Recheck() {
	select {
	case steerings.nudge <- struct{}{}:
	default:
	}
}

// join steers to the seats, in addition to those that are in their group
// already. The sockets must be served, because probes are sent to them.
func (s *steerer) join(tcp bool, seats []*seat, report func(bool, string)) (*part, error) {
	var key groupKey
	var local unix.Sockaddr
	var err error
	if cerr := seats[0].control(func(fd int) { key, local, err = keyOf(fd, tcp) }); cerr != nil || err != nil {
		return nil, errors.Join(cerr, err)
	}
	for _, seat := range seats {
		if cerr := seat.control(func(fd int) { seat.inode, err = inodeOf(fd) }); cerr != nil || err != nil {
			return nil, errors.Join(cerr, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.groups[key]
	if st == nil {
		st = &steering{key: key, local: local}
		s.groups[key] = st
	}
	p := &part{st: st, seats: slices.Clone(seats), report: report}
	st.parts = append(st.parts, p)
	st.seen = nil
	st.settle()
	if s.stop == nil {
		s.stop, s.done = make(chan struct{}), make(chan struct{})
		go s.watch(s.stop, s.done)
	}
	return p, nil
}

// leave removes seats before their sockets are closed. From then on they get no
// new packets, unless the kernel refuses the filter.
func (s *steerer) leave(p *part, seats []*seat) {
	s.mu.Lock()
	st := p.st
	before := st.seats()
	p.seats = slices.DeleteFunc(p.seats, func(x *seat) bool { return slices.Contains(seats, x) })
	if len(before) != len(st.seats()) {
		st.steerAway(seats)
	}
	if len(p.seats) == 0 {
		st.parts = slices.DeleteFunc(st.parts, func(x *part) bool { return x == p })
	}
	if len(st.parts) == 0 {
		delete(s.groups, st.key)
	}
	var done chan struct{}
	if len(s.groups) == 0 && s.stop != nil {
		close(s.stop)
		done, s.stop = s.done, nil
	}
	s.mu.Unlock()
	if done != nil {
		<-done
	}
	Recheck()
}

// left must be called when the sockets of p are closed, because the places of
// the other sockets have changed.
func (s *steerer) left(p *part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groups[p.st.key] == p.st {
		p.st.settle()
	}
}

// steered returns why not all packets go to the seats of p, or nil if they do.
func (s *steerer) steered(p *part) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.st.why
}

// watch sets the filters again when the members of groups change.
func (s *steerer) watch(stop, done chan struct{}) {
	defer close(done)
	pause := lookSoon
	t := time.NewTimer(pause)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-s.nudge:
			pause = lookSoon
			t.Reset(pause)
			continue
		case <-t.C:
		}
		start, changed := time.Now(), false
		s.mu.Lock()
		for _, st := range s.groups {
			changed = st.look() || changed
		}
		s.mu.Unlock()
		pause = nextLook(pause, time.Since(start), changed)
		t.Reset(pause)
	}
}

// look calls settle if the members have changed or the filter must be set
// again. It reports whether the members have changed.
func (st *steering) look() (changed bool) {
	was := st.why
	members, err := st.key.members()
	if err == nil && st.seen != nil && slices.Equal(members, st.seen) {
		return false
	}
	if members, err = st.key.stableMembers(); err == nil && st.seen != nil && slices.Equal(members, st.seen) {
		return false
	}
	changed = err == nil && !slices.Equal(members, st.latest)
	st.latest = members
	st.settle()
	if (was == nil) == (st.why == nil) && (was == nil || was.Error() == st.why.Error()) {
		return changed
	}
	text := "the kernel sends all queries to the fast path"
	if st.why != nil {
		text = fmt.Sprintf("the kernel distributes queries to all sockets of the address evenly (%v), so other sockets get their share", st.why)
	}
	for _, p := range st.parts {
		if p.report != nil {
			p.report(st.why == nil, text)
		}
	}
	return changed
}

func (st *steering) seats() (all []*seat) {
	for _, p := range st.parts {
		all = append(all, p.seats...)
	}
	return all
}

// settle decides how the kernel should distribute now, and sets the filter.
func (st *steering) settle() {
	const tries = 3 // members may change while the places are being measured
	for range tries {
		members, err := st.key.stableMembers()
		if err != nil {
			st.give(nil, evenly, err)
			return
		}
		how, places, why := st.plan(members)
		if st.give(places, how, why); st.why != nil && how != evenly {
			return // the kernel refuses filters
		}
		after, err := st.key.stableMembers()
		if err == nil && slices.Equal(members, after) {
			st.size = len(members)
			// A failure to find places is tried again. A shared group is not.
			if why == nil || errors.Is(why, errShared) {
				st.seen = members
			}
			return
		}
	}
	st.give(nil, evenly, fmt.Errorf("%w: the group keeps changing", errUnlocated))
}

// plan returns how to distribute, with the places that the filter needs.
func (st *steering) plan(members []uint64) (dealing, map[*seat]int, error) {
	own, err := ownSockets()
	if err != nil {
		return evenly, nil, err
	}
	seats := st.seats()
	ours := make([]uint64, len(seats))
	for i, s := range seats {
		ours[i] = s.inode
	}
	how, why := deal(members, own, ours)
	if how != toOurs {
		return how, nil, why
	}
	places, err := st.locate(seats, len(members))
	if err != nil {
		return evenly, nil, err
	}
	return toOurs, places, nil
}

// give sets the filter for how and records it. why is the reason for evenly.
func (st *steering) give(places map[*seat]int, how dealing, why error) {
	st.places, st.why, st.seen = places, why, nil
	var prog []unix.SockFilter
	switch how {
	case evenly:
		prog = dealTo(nil)
	case toAll:
		st.places = nil
		prog = dealTo([]run{{0, len(st.seats())}})
	case toOurs:
		var at []int
		for _, p := range places {
			at = append(at, p)
		}
		prog = dealTo(runs(at))
	}
	if err := st.attach(prog); err != nil && st.why == nil {
		st.why = err
	}
}

// steerAway sends packets to the remaining seats when some leave, or to the
// server's own sockets if none remains.
func (st *steering) steerAway(leaving []*seat) {
	stay := st.seats()
	prog := dealTo(nil)
	members, err := st.key.stableMembers()
	current := err == nil && slices.Equal(members, st.seen) && st.places != nil
	if current {
		var at []int
		for _, s := range stay {
			at = append(at, st.places[s])
		}
		if len(stay) == 0 {
			var ours []int
			for _, p := range st.places {
				ours = append(ours, p)
			}
			at = placesExcept(ours, st.size)
		}
		prog = dealTo(runs(at))
	}
	st.seen = nil
	all := append(stay, leaving...)
	_ = all[0].control(func(fd int) { _ = attach(fd, prog) }) // a failure loses a few packets
}

// attach sets a filter for the group.
func (st *steering) attach(prog []unix.SockFilter) error {
	seats := st.seats()
	if len(seats) == 0 {
		return nil
	}
	var err error
	if cerr := seats[0].control(func(fd int) { err = attach(fd, prog) }); cerr != nil {
		return cerr
	}
	return err
}

// byHash is the result of a filter that leaves the choice to the kernel. No
// group has so many places.
const byHash = 0xffffffff

// dealTo returns the filter that chooses among places at random, so that the
// load is even also with few clients. Without places it leaves the choice to
// the kernel.
func dealTo(to []run) []unix.SockFilter {
	const random = 0xfffff000 + 56 // SKF_AD_OFF + SKF_AD_RANDOM
	n := 0
	for _, r := range to {
		n += r.n
	}
	if n == 0 {
		return []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: byHash}}
	}
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: random},
		{Code: unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K, K: uint32(n)},
	}
	// The accumulator holds the index of a place among all runs. Compare it
	// with each run, from the last to the first.
	for i := len(to) - 1; i >= 0; i-- {
		n -= to[i].n
		if i > 0 {
			prog = append(prog, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: uint32(n), Jf: 2})
		}
		prog = append(prog,
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_ADD | unix.BPF_K, K: uint32(to[i].first - n)},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_A})
	}
	return prog
}

// probing returns the filter that sends packets from ports[i] to place i, and
// leaves the choice for all other packets to the kernel. Packets of loopback
// have no IP options.
func probing(ports []uint16, v6 bool) []unix.SockFilter {
	const network = 0xfff00000 // SKF_NET_OFF
	version, header := uint32(0x40), uint32(20)
	if v6 {
		version, header = 0x60, 40
	}
	hash := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: byHash}
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: network},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xf0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: version, Jt: 1},
		hash,
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: network + header},
	}
	for place, port := range ports {
		prog = append(prog,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(port), Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(place)})
	}
	return append(prog, hash)
}

func attach(fd int, prog []unix.SockFilter) error {
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	return os.NewSyscallError("setsockopt SO_ATTACH_REUSEPORT_CBPF",
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &fprog))
}

// probes are the senders for which the filter has a place.
type probes struct {
	place map[netip.AddrPort]int // constant

	mu    sync.Mutex
	found map[*seat]int
	want  int
	all   chan struct{} // closed when every seat is found
}

// arrived records that s received a packet of peer. It reports whether peer is
// a probe.
func (p *probes) arrived(s *seat, peer netip.AddrPort) bool {
	place, ok := p.place[peer]
	if !ok {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, again := p.found[s]; !again {
		if p.found[s] = place; len(p.found) == p.want {
			close(p.all)
		}
	}
	return true
}

const (
	// mostPlaces is the largest group whose places are measured. The length of
	// filters is limited, and so are descriptors.
	mostPlaces = 1024
	// locateTries is how often places are measured, because a full buffer loses
	// a probe; locateWait is how long the answers may take, because a worker
	// may be busy.
	locateTries = 3
	locateWait  = 200 * time.Millisecond
)

// locate returns the places of seats in a group of n sockets.
func (st *steering) locate(seats []*seat, n int) (map[*seat]int, error) {
	if n > mostPlaces {
		return nil, fmt.Errorf("%w: there are %d sockets", errUnlocated, n)
	}
	for range locateTries {
		places, err := st.probe(seats, n)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUnlocated, err)
		}
		if places != nil {
			return places, nil
		}
	}
	return nil, errUnlocated
}

// probe measures the places once. It returns nil if some were not found.
func (st *steering) probe(seats []*seat, n int) (map[*seat]int, error) {
	from, to, v6 := st.loopback()
	kind := unix.SOCK_DGRAM
	if st.key.tcp {
		kind = unix.SOCK_STREAM
	}
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	p := &probes{place: map[netip.AddrPort]int{}, found: map[*seat]int{}, want: len(seats), all: make(chan struct{})}
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	var ports []uint16
	for place := range n {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return nil, os.NewSyscallError("socket", err)
		}
		fds = append(fds, fd)
		if err := unix.Bind(fd, from); err != nil {
			return nil, os.NewSyscallError("bind", err)
		}
		peer, err := boundTo(fd)
		if err != nil {
			return nil, err
		}
		p.place[peer] = place
		ports = append(ports, peer.Port())
	}
	if err := st.attach(probing(ports, v6)); err != nil {
		return nil, err
	}
	for _, s := range seats {
		s.looking.Store(p)
	}
	defer func() {
		for _, s := range seats {
			s.looking.Store(nil)
		}
	}()
	for _, fd := range fds {
		if err := st.knock(fd, to); err != nil {
			return nil, err
		}
	}
	t := time.NewTimer(locateWait)
	defer t.Stop()
	select {
	case <-p.all:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.found, nil
	case <-t.C:
		return nil, nil //nolint:nilnil // documented: not all were found
	}
}

// knock sends a probe: a connection, or the header of a DNS response, which
// servers ignore.
func (st *steering) knock(fd int, to unix.Sockaddr) error {
	if st.key.tcp {
		// The listener resets it, so that its port is free at once.
		if err := unix.Connect(fd, to); !errors.Is(err, unix.EINPROGRESS) {
			return os.NewSyscallError("connect", err)
		}
		return nil
	}
	return os.NewSyscallError("sendto", unix.Sendto(fd, []byte{0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0, to))
}

// loopback returns the addresses from and to which probes are sent, so that
// they stay on the host and reach the group. For a group of all addresses it is
// one that hardly any program binds to; if one does, the seats are not found.
func (st *steering) loopback() (from, to unix.Sockaddr, v6 bool) {
	host := [4]byte{127, 80, 83, 75}
	switch a := st.local.(type) {
	case *unix.SockaddrInet4:
		if a.Addr != [4]byte{} {
			host = a.Addr
		}
		return &unix.SockaddrInet4{Addr: host}, &unix.SockaddrInet4{Addr: host, Port: a.Port}, false
	case *unix.SockaddrInet6:
		if a.Addr != [16]byte{} {
			return &unix.SockaddrInet6{Addr: a.Addr, ZoneId: a.ZoneId}, &unix.SockaddrInet6{Addr: a.Addr, ZoneId: a.ZoneId, Port: a.Port}, true
		}
		if st.only6() {
			one := [16]byte{15: 1}
			return &unix.SockaddrInet6{Addr: one}, &unix.SockaddrInet6{Addr: one, Port: a.Port}, true
		}
		return &unix.SockaddrInet4{Addr: host}, &unix.SockaddrInet4{Addr: host, Port: a.Port}, false
	}
	return nil, nil, false // unreachable, see keyOf
}

// only6 reports whether the sockets of the group take IPv6 only.
func (st *steering) only6() (only bool) {
	_ = st.seats()[0].control(func(fd int) {
		v, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		only = err != nil || v != 0
	})
	return only
}

// boundTo returns the local address of fd.
func boundTo(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", err)
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		addr := netip.AddrFrom16(a.Addr)
		if a.ZoneId != 0 {
			addr = addr.WithZone(zoneName(a.ZoneId))
		}
		return netip.AddrPortFrom(addr, uint16(a.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("an address of the kind %T", sa)
}
