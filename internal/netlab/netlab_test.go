package netlab

import (
	"net/netip"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	two := []string{"a", "b"}
	for _, c := range []struct {
		name string
		o    Options
		want string // part of the message, "" for valid
	}{
		{"empty", Options{}, ""},
		{"link", Options{Hosts: two, Links: []Link{{A: "a", B: "b", RateAB: Gbit}}}, ""},
		{"bad name", Options{Hosts: []string{"a/b"}}, `"a/b"`},
		{"twice", Options{Hosts: []string{"a"}, Switches: []string{"a"}}, "used twice"},
		{"unknown end", Options{Hosts: two, Links: []Link{{A: "a", B: "c"}}}, `"c"`},
		{"loop", Options{Hosts: two, Links: []Link{{A: "a", B: "a"}}}, "itself"},
		{"switches", Options{Switches: two, Links: []Link{{A: "a", B: "b"}}}, "two switches"},
		{"negative", Options{Hosts: two, Links: []Link{{A: "a", B: "b", RateBA: -1}}}, "negative"},
		{"units", Options{Hosts: two, Links: []Link{{A: "a", B: "b", RateAB: 400}}}, "netlab.Mbit"},
		{"mtu", Options{Hosts: two, Links: []Link{{A: "a", B: "b", MTU: 100}}}, "1280"},
		{"many", Options{Hosts: two, Links: make([]Link, 251)}, "at most 250"},
	} {
		err := c.o.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

// TestPlan checks the addresses, because people type them.
func TestPlan(t *testing.T) {
	o := Options{Hosts: []string{"a", "b", "c"}, Switches: []string{"sw"}, Links: []Link{
		{A: "a", B: "b"}, {A: "a", B: "sw"}, {A: "sw", B: "b"}, {A: "c", B: "sw"}, {A: "b", B: "c"},
	}}
	got := o.plan()
	want := [][2]string{
		{"eth0 10.77.0.1/24", "eth0 10.77.0.2/24"},
		{"eth1 10.77.1.1/24", "p0"},
		{"p1", "eth1 10.77.1.2/24"},
		{"eth0 10.77.1.3/24", "p2"},
		{"eth2 10.77.2.1/24", "eth1 10.77.2.2/24"},
	}
	seen := map[netip.Prefix]bool{}
	for i := range got {
		for k, p := range got[i] {
			s := p.ifname
			if p.v4.IsValid() {
				s += " " + p.v4.String()
				if seen[p.v4] || seen[p.v6] {
					t.Errorf("link %d end %d: address given out twice", i, k)
				}
				seen[p.v4], seen[p.v6] = true, true
			}
			if s != want[i][k] {
				t.Errorf("link %d end %d: %s, want %s", i, k, s, want[i][k])
			}
		}
	}
}
