package dnsplugin

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/caddy"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// snapshotted returns a cache with one answer, one denial, and its source.
func snapshotted(t testing.TB, cfg Config) (*Cache, *world) {
	t.Helper()
	w := &world{kind: map[string]int{"a.example.": positive, "b.example.": nxdomain}, ttl: map[string]uint32{"a.example.": 300, "b.example.": 300}}
	c, err := newCache("penstock", cfg, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	c.Next = w
	t.Cleanup(func() { c.Close() })
	return c, w
}

func TestRestartFromASnapshotKeepsTTLs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "warm")
		c, _ := snapshotted(t, Config{Warm: file})
		ask(t, c, question("a.example.", dns.TypeA))
		ask(t, c, question("b.example.", dns.TypeA))
		if err := c.saveWarm(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Second) // of the bubble
		next, _ := snapshotted(t, Config{Warm: file})
		next.Next = nil
		next.loadWarm()
		a, b := ask(t, next, question("A.example.", dns.TypeA)), ask(t, next, question("b.example.", dns.TypeA))
		if len(a.Answer) != 1 || a.Answer[0].Header().Ttl != 200 || b.Rcode != dns.RcodeNameError {
			t.Errorf("%v\n%v", a, b)
		}
		time.Sleep(201 * time.Second)
		last, _ := snapshotted(t, Config{Warm: file})
		last.loadWarm()
		if n := last.sides.Success.Store.Len() + last.sides.Denial.Store.Len(); n != 0 {
			t.Errorf("%d entries whose time is over", n)
		}
		left, err := filepath.Glob(file + ".*")
		if err != nil || len(left) != 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	})
}

func TestDamagedSnapshotIsIgnored(t *testing.T) {
	c, _ := snapshotted(t, Config{})
	ask(t, c, question("a.example.", dns.TypeA))
	var b bytes.Buffer
	if err := c.writeSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	for i := range b.Len() {
		bad := bytes.Clone(b.Bytes())
		bad[i] ^= 1
		next, _ := snapshotted(t, Config{})
		for _, bad := range [][]byte{bad, bad[:i]} {
			if n, err := next.readSnapshot(bytes.NewReader(bad), int64(len(bad))); err == nil || n+next.sides.Success.Store.Len() != 0 {
				t.Fatalf("byte %d: %d entries, %v", i, n, err)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "warm")
	if err := os.WriteFile(file, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	next, _ := snapshotted(t, Config{Warm: file})
	next.loadWarm()
	if next.sides.Success.Store.Len() != 0 {
		t.Error("entries out of nothing")
	}
}

// FuzzWarmEntry: entries of any content are refused or served as a message.
func FuzzWarmEntry(f *testing.F) {
	c, _ := snapshotted(f, Config{})
	r := question("a.example.", dns.TypeA)
	if _, err := c.ServeDNS(f.Context(), &nullWriter{}, r); err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if err := c.writeSnapshot(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes()[len(warmMagic) : b.Len()-32])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		w, n, err := parseWarm(b)
		if err != nil {
			return
		}
		if n < warmHead || n > len(b) {
			t.Fatalf("%d of %d bytes", n, len(b))
		}
		if c.restore(&w) && w.ttl > maxTTLSeconds {
			t.Fatal("a TTL that DNS doesn't have")
		}
	})
}

func TestReloadKeepsTheEntries(t *testing.T) {
	old, w := snapshotted(t, Config{})
	ask(t, old, question("a.example.", dns.TypeA))
	ctl := caddy.NewTestController("dns", "penstock")
	ctl.ServerBlockKeys = []string{"example."}
	block := blockOf("penstock", ctl)

	proc.handovers.offer(block, old)
	other, _ := snapshotted(t, Config{KeepTTL: true})
	if proc.handovers.take(block, other) || proc.handovers.take(block, old) {
		t.Error("entries kept under other rules")
	}
	proc.handovers.offer(block, old)
	next, _ := snapshotted(t, Config{Coalesce: -1})
	if !proc.handovers.take(block, next) {
		t.Fatal("not taken")
	}
	next.Next = nil
	if m := ask(t, next, question("a.example.", dns.TypeA)); len(m.Answer) != 1 {
		t.Error(m)
	}
	_ = w
}
