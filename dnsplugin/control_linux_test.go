//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/miekg/dns"
)

// The control in a server: over a reload the socket and the entries stay, a
// configuration that fails leaves both as they were, and without the option
// the socket goes.
func TestControlOfAServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.sock")
	corefile := ".:PORT {\n    bind 127.0.0.1\n    penstock {\n    %s\n    }\n    source A\n}\n"
	with := fmt.Sprintf(corefile, "control "+path)
	s := start(t, with, map[string]*source{"A": variety()})
	client := dialled(t, path)
	fill := func() {
		t.Helper()
		if _, err := dns.Exchange(question("one.example.org.", dns.TypeA), s.addr); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	if err := s.reload(with); err != nil {
		t.Fatal(err)
	}
	if body := flushAll(t, client); body != "flushed 1 entries\n" {
		t.Errorf("after a reload: %q", body)
	}
	fill()
	if err := s.reload(with + with); err == nil {
		t.Error("a zone twice")
	}
	other := filepath.Join(filepath.Dir(path), "no", "such")
	if err := s.reload(fmt.Sprintf(corefile, "control "+other)); err == nil {
		t.Error("a directory that does not exist")
	}
	if body := flushAll(t, client); body != "flushed 1 entries\n" {
		t.Errorf("after reloads that failed: %q", body)
	}
	if err := s.reload(fmt.Sprintf(corefile, "keepttl")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}
