package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
)

// Rates are in bits a second, as usual for network links.
const (
	Kbit int64 = 1e3
	Mbit int64 = 1e6
	Gbit int64 = 1e9
)

// DefaultMTU is the Ethernet frame payload.
const DefaultMTU = 1500

// maxLinks bounds the links of a lab: each takes one /24 of 10.77.0.0/16.
const maxLinks = 250

// ErrClosed is returned by methods of a closed Lab.
var ErrClosed = errors.New("netlab: lab is closed")

// Options describes a network. The zero value is a lab without hosts.
type Options struct {
	// Hosts are the names of the hosts: letters, digits and hyphens, at most 15.
	Hosts []string
	// Switches are the names of bridges, which links may name as an end.
	Switches []string
	// Links join hosts with hosts or switches.
	Links []Link
	// Named binds the namespaces to /run/netns/penstock-PID-N-HOST, so that a
	// person can enter them by ip netns exec.
	Named bool
}

// Link is a cable between two hosts or a host and a switch.
type Link struct {
	// A and B name the ends.
	A, B string
	// RateAB limits the traffic from A to B, and RateBA from B to A, in bits a
	// second; zero means unlimited.
	RateAB, RateBA int64
	// MTU is the largest packet in bytes; zero means DefaultMTU.
	MTU int
}

// nameRE restricts names to those that are safe in files and messages.
var nameRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9-]{0,14}$`)

// Validate reports the first mistake in o.
func (o Options) Validate() error {
	seen := map[string]bool{}
	for _, n := range slices.Concat(o.Hosts, o.Switches) {
		if !nameRE.MatchString(n) {
			return fmt.Errorf("netlab: name %q: use 1 to 15 letters, digits and hyphens", n)
		}
		if seen[n] {
			return fmt.Errorf("netlab: name %q is used twice: give each host and switch its own", n)
		}
		seen[n] = true
	}
	if len(o.Links) > maxLinks {
		return fmt.Errorf("netlab: %d links: at most %d", len(o.Links), maxLinks)
	}
	for i, l := range o.Links {
		for _, end := range []string{l.A, l.B} {
			if !seen[end] {
				return fmt.Errorf("netlab: link %d ends at %q, which is neither a host nor a switch: add it to Hosts or Switches", i, end)
			}
		}
		switch {
		case l.A == l.B:
			return fmt.Errorf("netlab: link %d joins %q with itself: name two different ends", i, l.A)
		case slices.Contains(o.Switches, l.A) && slices.Contains(o.Switches, l.B):
			return fmt.Errorf("netlab: link %d joins two switches: put the hosts on one switch", i)
		case l.RateAB < 0 || l.RateBA < 0:
			return fmt.Errorf("netlab: link %d has a negative rate: use 0 for no limit", i)
		case l.RateAB > 0 && l.RateAB < 8*Kbit || l.RateBA > 0 && l.RateBA < 8*Kbit:
			return fmt.Errorf("netlab: link %d is slower than 8 kbit/s: give rates in bits a second, for example 400*netlab.Mbit", i)
		case l.MTU != 0 && (l.MTU < 1280 || l.MTU > 65535):
			return fmt.Errorf("netlab: link %d has MTU %d: use 1280 (IPv6 needs it) to 65535", i, l.MTU)
		}
	}
	return nil
}

// port is one end of a link on a host. It is planned before the network is
// made.
type port struct {
	ifname string
	v4, v6 netip.Prefix
}

// plan assigns interface names and addresses: for each link the ports of its
// two ends. A switch's ports have no address.
func (o Options) plan() [][2]port {
	ports := make([][2]port, len(o.Links))
	next := map[string]int{}      // next interface number of each host or switch
	subnet := map[string]byte{}   // the subnet of each switch
	nextHost := map[string]byte{} // the next host number on each switch
	assigned := byte(0)           // subnets given out
	allot := func() byte { assigned++; return assigned - 1 }
	for i, l := range o.Links {
		ends := [2]string{l.A, l.B}
		sw := ""
		for _, e := range ends {
			if slices.Contains(o.Switches, e) {
				sw = e
			}
		}
		var sub byte
		if sw == "" {
			sub = allot()
		} else if s, ok := subnet[sw]; ok {
			sub = s
		} else {
			sub = allot()
			subnet[sw] = sub
		}
		for k, e := range ends {
			p := &ports[i][k]
			if e == sw {
				p.ifname = fmt.Sprintf("p%d", next[e])
				next[e]++
				continue
			}
			p.ifname = fmt.Sprintf("eth%d", next[e])
			next[e]++
			num := byte(k + 1)
			if sw != "" {
				nextHost[sw]++
				num = nextHost[sw]
			}
			p.v4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, sub, num}), 24)
			// A unique local prefix, which is never routed outside the lab.
			p.v6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 7: sub + 1, 15: num}), 64)
		}
	}
	return ports
}
