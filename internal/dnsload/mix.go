package dnsload

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"

	"github.com/miekg/dns"
)

// Query is one question.
type Query struct {
	Name string // full, with the final dot
	Type uint16
}

// String returns the question in the form of dig's arguments.
func (q Query) String() string { return q.Name + " " + dns.TypeToString[q.Type] }

// MixOptions are the size of a mix. The zero value is the mix of the research
// behind Penstock, with 10,000 services and 300,000 questions.
type MixOptions struct {
	Services int     // 0: 10,000
	Queries  int     // 0: 300,000
	Zipf     float64 // exponent of how popularity falls with rank; 0 means 1.0
	TTL      int     // seconds, of every record; 0 means 3600
	Seed     uint64  // equal seeds give equal mixes
}

func (o MixOptions) withDefaults() MixOptions {
	if o.Services == 0 {
		o.Services = 10000
	}
	if o.Queries == 0 {
		o.Queries = 300000
	}
	if o.Zipf == 0 {
		o.Zipf = 1.0
	}
	if o.TTL == 0 {
		o.TTL = 3600
	}
	return o
}

// Validate returns an error if an option is out of range.
func (o MixOptions) Validate() error {
	if o.Services < 0 || o.Services > 1<<20 {
		return fmt.Errorf("dnsload: %d services: give 1 to %d, or 0 for 10,000", o.Services, 1<<20)
	}
	if o.Queries < 0 || o.TTL < 0 || o.Zipf < 0 || math.IsNaN(o.Zipf) {
		return fmt.Errorf("dnsload: queries %d, TTL %d and Zipf exponent %g must not be negative", o.Queries, o.TTL, o.Zipf)
	}
	return nil
}

// Zone is a zone as a master file.
type Zone struct {
	Origin string // such as cluster.local
	Text   []byte
}

// Mix is a set of zones with questions about them.
type Mix struct {
	Zones   []Zone
	Queries []Query
}

// The shape of the cluster.
const (
	servicesPerSpace = 50 // services in a namespace
	headless         = 60 // headless services of 1, 8, 30 and 120 addresses
)

// The shares of what pods ask for. With ndots:5, as Kubernetes sets it, names
// from outside go through the whole search path first, which makes six
// NXDOMAIN out of one look-up: about 60 % of all answers.
const (
	shareExternal = 0.44
	shareService  = 0.84 // the next 40 %, half of them by way of one wrong suffix
	shareSRV      = 0.92 // the next 8 %; the rest are headless services
)

// shuffleWindow is how many neighbouring questions are mixed up, as if so
// many clients asked at once.
const shuffleWindow = 2000

// NewMix makes a mix. It panics if o is not valid.
func NewMix(o MixOptions) *Mix {
	if err := o.Validate(); err != nil {
		panic(err)
	}
	o = o.withDefaults()
	m := &maker{o: o, rnd: rand.New(rand.NewPCG(o.Seed, 0x646e736c6f6164)), spaces: max(1, o.Services/servicesPerSpace)}
	m.external = max(10, o.Services/5)
	mix := &Mix{Zones: []Zone{m.cluster(), m.corp()}}
	mix.Queries = m.queries()
	return mix
}

// Distinct returns every question of the mix once, in the order of their first
// appearance.
func (m *Mix) Distinct() []Query {
	seen := make(map[Query]bool, len(m.Queries)/4)
	var out []Query
	for _, q := range m.Queries {
		if !seen[q] {
			seen[q] = true
			out = append(out, q)
		}
	}
	return out
}

// WriteZones writes each zone to dir as ORIGIN.zone and returns the files by
// origin.
func (m *Mix) WriteZones(dir string) (map[string]string, error) {
	files := map[string]string{}
	for _, z := range m.Zones {
		name := filepath.Join(dir, z.Origin+".zone")
		if err := os.WriteFile(name, z.Text, 0o644); err != nil {
			return nil, err
		}
		files[z.Origin] = name
	}
	return files, nil
}

// maker holds what the parts of NewMix share.
type maker struct {
	o        MixOptions
	rnd      *rand.Rand
	spaces   int
	external int
}

func (m *maker) service(i int) string { return fmt.Sprintf("model-%d.ns-%d", i, i%m.spaces) }

func (m *maker) externalName(i int) string {
	return fmt.Sprintf("node%d.pool%d.corp.example", i, i%61)
}

func (m *maker) head(b *bytes.Buffer, origin string) {
	fmt.Fprintf(b, "$ORIGIN %s.\n$TTL %d\n@ IN SOA ns.%s. host.%s. 1 7200 1800 86400 %d\n@ IN NS ns\nns IN A 192.0.2.1\n",
		origin, m.o.TTL, origin, origin, m.o.TTL)
}

// cluster makes the zone of the services: all have A, half AAAA, a quarter SRV.
func (m *maker) cluster() Zone {
	var b bytes.Buffer
	m.head(&b, "cluster.local")
	for i := range m.o.Services {
		name := m.service(i) + ".svc"
		fmt.Fprintf(&b, "%s IN A 10.%d.%d.%d\n", name, 96+i>>16, i>>8&255, i&255)
		if i%2 == 0 {
			fmt.Fprintf(&b, "%s IN AAAA fd00:10:96::%x\n", name, i)
		}
		if i%4 == 0 {
			fmt.Fprintf(&b, "_grpc._tcp.%s IN SRV 0 100 443 %s\n", name, name)
		}
	}
	for i := range headless {
		for e := range [...]int{1, 8, 30, 120}[i%4] {
			fmt.Fprintf(&b, "workers-%d.ns-%d.svc IN A 10.200.%d.%d\n", i, i%m.spaces, i, e+1)
		}
	}
	return Zone{Origin: "cluster.local", Text: b.Bytes()}
}

// corp makes the zone of the names outside of the cluster: all have A, a third
// AAAA.
func (m *maker) corp() Zone {
	var b bytes.Buffer
	m.head(&b, "corp.example")
	for i := range m.external {
		fmt.Fprintf(&b, "%s. IN A 198.51.%d.%d\n", m.externalName(i), i>>8&255, i&255)
		if i%3 == 0 {
			fmt.Fprintf(&b, "%s. IN AAAA 2001:db8::%x\n", m.externalName(i), i)
		}
	}
	return Zone{Origin: "corp.example", Text: b.Bytes()}
}

func (m *maker) queries() []Query {
	services, external, spaces := m.zipf(m.o.Services), m.zipf(m.external), m.zipf(m.spaces)
	// glibc sends A and AAAA back to back.
	var out []Query
	pair := func(name string) {
		out = append(out, Query{name + ".", dns.TypeA}, Query{name + ".", dns.TypeAAAA})
	}
	for len(out) < m.o.Queries {
		here := fmt.Sprintf(".ns-%d.svc.cluster.local", spaces())
		switch r := m.rnd.Float64(); {
		case r < shareExternal:
			name := m.externalName(external())
			for _, suffix := range []string{here, ".svc.cluster.local", ".cluster.local", ""} {
				pair(name + suffix)
			}
		case r < shareService:
			name := m.service(services())
			if m.rnd.IntN(2) == 0 {
				pair(name + here)
			}
			pair(name + ".svc.cluster.local")
		case r < shareSRV:
			out = append(out, Query{"_grpc._tcp." + m.service(services()/4*4) + ".svc.cluster.local.", dns.TypeSRV})
		default:
			i := m.rnd.IntN(headless)
			pair(fmt.Sprintf("workers-%d.ns-%d.svc.cluster.local", i, i%m.spaces))
		}
	}
	out = out[:m.o.Queries]
	for at := 0; at < len(out); at += shuffleWindow {
		w := out[at:min(at+shuffleWindow, len(out))]
		m.rnd.Shuffle(len(w), func(i, j int) { w[i], w[j] = w[j], w[i] })
	}
	return out
}

// zipf returns a source of ranks from 0 to n-1 with probability ~
// (rank+1)^-Zipf.
func (m *maker) zipf(n int) func() int {
	sums, total := make([]float64, n), 0.0
	for k := range sums {
		total += math.Pow(float64(k+1), -m.o.Zipf)
		sums[k] = total
	}
	return func() int { return min(n-1, sort.SearchFloat64s(sums, m.rnd.Float64()*total)) }
}
