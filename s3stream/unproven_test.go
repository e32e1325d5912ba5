package s3stream

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/s3stream/internal/wire"
)

// TestUnproven: a flood from one host costs that host its oldest connections and others nothing.
func TestUnproven(t *testing.T) {
	t.Parallel()
	var u unproven
	honest, _ := u.add("honest")
	for i := range 1000 {
		_, evicted := u.add("flood")
		if want := uint64(0); i < maxUnprovenOfHost && evicted != want || i >= maxUnprovenOfHost && evicted == 0 {
			t.Fatalf("connection %d of the flood evicts %d", i, evicted)
		}
		if evicted == honest {
			t.Fatalf("connection %d of the flood evicts another host's", i)
		}
	}
	// A flood from many hosts takes room from the host that has the most.
	for i := range 1000 {
		host := fmt.Sprintf("flood-%d", i%8)
		if _, evicted := u.add(host); evicted == honest {
			t.Fatalf("connection %d of host %s evicts the only one of another host", i, host)
		}
	}
	u.remove(honest)
	if of := u.perHost(); of["honest"] != 0 {
		t.Error("a removed connection still waits")
	}
}

func TestUnprovenInvariants(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var u unproven
		open := map[uint64]bool{}
		for range rapid.IntRange(0, 2*maxUnproven).Draw(t, "connections") {
			host := fmt.Sprint(rapid.IntRange(0, 300).Draw(t, "host"))
			id, evicted := u.add(host)
			if evicted != 0 && !open[evicted] {
				t.Fatalf("evicts %d, which is not open", evicted)
			}
			delete(open, evicted)
			open[id] = true
			if rapid.Bool().Draw(t, "proves itself") {
				u.remove(id)
				delete(open, id)
			}
			if len(u.waiting) != len(open) || len(open) > maxUnproven {
				t.Fatalf("%d wait, %d are open", len(u.waiting), len(open))
			}
			for host, n := range u.perHost() {
				if n > maxUnprovenOfHost {
					t.Fatalf("host %s has %d", host, n)
				}
			}
		}
		for u.oldest() != 0 {
		}
		if len(u.waiting) != 0 {
			t.Fatalf("%d are left", len(u.waiting))
		}
	})
}

// TestTurnedAwayIsLoggedSeldom: whoever reaches the port can be turned away thousands of times in a second, and the log
// gets one line in a while with the number of the others.
func TestTurnedAwayIsLoggedSeldom(t *testing.T) {
	var log bytes.Buffer
	a := &acceptor{log: slog.New(slog.NewTextHandler(&log, nil))}
	for i := range 10_000 {
		a.turnedAway(time.Duration(i)*time.Millisecond, "192.0.2.1:1", errCrowded)
	}
	a.turnedAway(10*time.Second, "192.0.2.2:1", &wire.Failure{Code: wire.CodeToken, Message: "wrong token"})
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "192.0.2.1:1") || !strings.Contains(lines[1], "wrong token") || !strings.Contains(lines[1], "others=9999") {
		t.Errorf("log of 10,001 peers in 10 s:\n%s", log.String())
	}
}

// TestEvictedConnectionSaysWhy: a connection that made room for another one is not said to have been given up.
func TestEvictedConnectionSaysWhy(t *testing.T) {
	var log bytes.Buffer
	a := &acceptor{log: slog.New(slog.NewTextHandler(&log, nil)), conns: map[uint64]net.Conn{}, began: time.Now()}
	ours, theirs := net.Pipe()
	defer theirs.Close()
	id := a.add(ours)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.serve(t.Context(), id, ours)
	}()
	a.makeRoom()
	<-done
	if !strings.Contains(log.String(), "its place was needed") {
		t.Errorf("log: %s", log.String())
	}
}
