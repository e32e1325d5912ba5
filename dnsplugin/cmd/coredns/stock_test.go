package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/internal/dnsload"
)

// Corefiles that were written for CoreDNS run unchanged: the stock binary and
// ours read the same text and give the same answers, first from the source and
// then from their caches. What differs on purpose (dnsplugin/README.md,
// "Differences") is not asked for.

// stockBlocks are server blocks by the name of the port that they listen at.
// UPSTREAM is the address of the source, ZONE a zone file, METRICS a port.
var stockBlocks = map[string]string{
	// What kubeadm installs, without what needs a cluster.
	"kubeadm": `
    errors
    prometheus 127.0.0.1:METRICS
    loadbalance
    cache 30 {
        disable success cluster.local
        disable denial cluster.local
    }
    forward . UPSTREAM {
        max_concurrent 1000
    }
    loop
`,
	// NodeLocal DNSCache.
	"nodelocal": `
    errors
    cache {
        success 9984 30
        denial 9984 5
    }
    loop
    forward . UPSTREAM {
        force_tcp
    }
`,
	// Every option of the directive.
	"options": `
    errors
    cache 300 cluster.local corp {
        success 10000 600 10
        denial 5000 60 5
        prefetch 10 1m 10%
        serve_stale 1h verify 2s 30s 30s
        serve_stale_policy prefer_positive
        servfail 10s
        keepttl
    }
    forward . UPSTREAM
`,
	// Plugins before the cache that change questions or answers.
	"chain": `
    bufsize 1232
    nsid server-1
    chaos version-1 someone
    any
    local
    metadata
    log . {combined} {
        class error
    }
    rewrite stop name exact alias.example.org www.example.org
    acl example.org {
        block type TXT
    }
    minimal
    cache
    hosts {
        192.0.2.7 seven.example.org
        fallthrough
    }
    file ZONE example.org
    forward . UPSTREAM
`,
	// The fast path with all that it stands in for.
	"fast": `
    bufsize 1232
    errors
    prometheus 127.0.0.1:METRICS
    loadbalance round_robin
    nsid server-1
    cache 3600
    forward . UPSTREAM
`,
}

// stockCorefile fills in free ports, and returns them by block.
func stockCorefile(t *testing.T, zoneFile string, zones map[string]string) (text string, ports map[string]string) {
	t.Helper()
	upstream := freePort(t)
	ports = map[string]string{}
	text = fmt.Sprintf(".:%s {\n    bind 127.0.0.1\n", upstream)
	for origin, file := range zones {
		text += fmt.Sprintf("    file %s %s\n", file, origin)
	}
	text += "}\n"
	for name, body := range stockBlocks {
		ports[name] = freePort(t)
		body = strings.NewReplacer("UPSTREAM", "127.0.0.1:"+upstream, "METRICS", freePort(t), "ZONE", zoneFile).Replace(body)
		text += fmt.Sprintf(".:%s {\n    bind 127.0.0.1%s}\n", ports[name], body)
	}
	return text, ports
}

// askings are the ways in which a question is asked, one after the other.
var askings = []struct {
	network string
	edit    func(*dns.Msg)
}{
	{"udp", func(*dns.Msg) {}},
	{"udp", func(m *dns.Msg) { m.SetEdns0(1232, false) }},
	{"udp", func(m *dns.Msg) { m.SetEdns0(4096, true) }},
	{"tcp", func(*dns.Msg) {}},
	{"udp", func(m *dns.Msg) { m.CheckingDisabled, m.AuthenticatedData = true, true }},
	{"udp", func(m *dns.Msg) { m.Question[0].Name = strings.ToUpper(m.Question[0].Name) }},
	{"udp", func(m *dns.Msg) { m.RecursionDesired = false; m.SetEdns0(512, false) }},
}

// stockQuestions are questions of a cluster, and unusual ones.
func stockQuestions(mix *dnsload.Mix) []*dns.Msg {
	var all []*dns.Msg
	add := func(name string, qtype uint16, edit ...func(*dns.Msg)) {
		m := new(dns.Msg)
		m.SetQuestion(name, qtype)
		for _, e := range edit {
			e(m)
		}
		all = append(all, m)
	}
	for _, q := range mix.Distinct()[:120] {
		add(q.Name, q.Type)
	}
	for _, name := range []string{"www.example.org.", "alias.example.org.", "no.example.org.", "seven.example.org.", "example.org."} {
		for _, t := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeSOA, dns.TypeNS, dns.TypeDS} {
			add(name, t)
		}
	}
	add("version.bind.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS })
	add("example.org.", dns.TypeANY)
	add("localhost.", dns.TypeA)
	add("other.test.", dns.TypeA)
	add("www.example.org.", dns.TypeHINFO)
	add("www.example.org.", dns.TypeA, func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus })
	return all
}

// canonical is a response without what may differ: identifier, order of
// records, letter case of their names, and TTLs, which are returned apart.
func canonical(m *dns.Msg) (text string, ttls []uint32) {
	h := m.MsgHdr
	h.Id = 0
	text = h.String() + fmt.Sprint(m.Question)
	for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		var lines []string
		for _, rr := range section {
			c := dns.Copy(rr)
			if rr.Header().Rrtype != dns.TypeOPT {
				ttls = append(ttls, rr.Header().Ttl)
				c.Header().Ttl = 0
			}
			lines = append(lines, strings.ToLower(c.String()))
		}
		slices.Sort(lines)
		// The records of a truncated answer depend on the order, which is
		// random.
		if m.Truncated && i == 0 {
			lines = nil
		}
		text += fmt.Sprintf("\n%d %s", i, strings.Join(lines, "\n"))
	}
	slices.Sort(ttls)
	return text, ttls
}

// stockBinary returns the path of CoreDNS's own program, which is built once.
func stockBinary(t *testing.T) string {
	t.Helper()
	bin, err := buildStock()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// builtDir is the folder of what tests have built, "" if nothing; TestMain
// removes it.
var builtDir string

var buildStock = sync.OnceValues(func() (string, error) {
	var err error
	if builtDir, err = os.MkdirTemp("", "penstock-coredns-"); err != nil {
		return "", err
	}
	bin := filepath.Join(builtDir, "coredns")
	// In a fraction of the time of the tests' own build: all but the cache is
	// compiled already.
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", bin, "github.com/coredns/coredns")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return bin, nil
})

func TestCorefilesOfCoreDNSRunUnchanged(t *testing.T) {
	stock := stockBinary(t)
	dir := t.TempDir()
	mix := dnsload.NewMix(dnsload.MixOptions{Services: 100, Queries: 1000})
	zones, err := mix.WriteZones(dir)
	if err != nil {
		t.Fatal(err)
	}
	zoneFile := write(t, dir, "example.org.zone", zone)
	ready := mix.Queries[0].Name
	ports := map[string]map[string]string{}
	for _, bin := range []string{stock, self(t)} {
		serveBy(t, bin, func() (string, string, string) {
			text, p := stockCorefile(t, zoneFile, zones)
			ports[bin] = p
			return text, "127.0.0.1:" + p["chain"], ready
		})
	}
	for block := range stockBlocks {
		t.Run(block, func(t *testing.T) {
			compareServers(t, "127.0.0.1:"+ports[stock][block], "127.0.0.1:"+ports[self(t)][block], stockQuestions(mix))
		})
	}
}

// compareServers asks both each question three times: a miss and two hits.
func compareServers(t *testing.T, theirs, ours string, questions []*dns.Msg) {
	t.Helper()
	first := make([][]uint32, len(questions)) // TTLs of the answers from the source
	begun := time.Now()
	for round := range 3 {
		for i, q := range questions {
			r, how := q.Copy(), askings[i%len(askings)]
			how.edit(r)
			want, wantTTLs := exchange(t, how.network, theirs, r)
			got, gotTTLs := exchange(t, how.network, ours, r)
			if got != want {
				t.Errorf("round %d, %s: %v\nCoreDNS: %s\nours: %s", round, how.network, r, want, got)
				continue
			}
			age := uint32(time.Since(begun).Seconds()) + 1
			if round == 0 {
				// A name that was asked for before, in other letters, is a hit,
				// aged in one of the two.
				if !slices.EqualFunc(wantTTLs, gotTTLs, func(a, b uint32) bool { return max(a, b)-min(a, b) <= age }) {
					t.Errorf("%v: TTLs %v, CoreDNS has %v", r, gotTTLs, wantTTLs)
				}
				for k := range min(len(wantTTLs), len(gotTTLs)) {
					first[i] = append(first[i], max(wantTTLs[k], gotTTLs[k]))
				}
				continue
			}
			// A TTL, from a cache or fetched again, is at most the source's,
			// and lower by at most the time that has passed.
			for k, ttl := range gotTTLs {
				if k < len(first[i]) && (ttl > first[i][k] || ttl+age < first[i][k]) {
					t.Errorf("round %d: %v: TTL %d, was %d %d s ago or later", round, r, ttl, first[i][k], age)
				}
			}
		}
	}
}

// exchange asks until there is an answer: a datagram may be lost.
func exchange(t *testing.T, network, addr string, r *dns.Msg) (text string, ttls []uint32) {
	t.Helper()
	client := dns.Client{Net: network, Timeout: 20 * time.Second, UDPSize: dns.MaxMsgSize}
	var last error
	for range 3 {
		m, _, err := client.ExchangeContext(t.Context(), r, addr)
		if err == nil {
			return canonical(m)
		}
		last = err
	}
	t.Fatalf("%s does not answer %v: %v", addr, r, last)
	return "", nil
}
