package dnsplugin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// stuffed returns a cache with about so many bytes of answers.
func stuffed(t *testing.T, cfg Config, size int64) *Cache {
	t.Helper()
	cfg.MaxMem = 2 * size * 5 / 4
	c, err := newCache("penstock", cfg, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	text := strings.Repeat("x", 200)
	for i := 0; c.sides.Success.Store.Bytes() < size && i < 1<<20; i++ {
		r := question(fmt.Sprintf("n%d.example.", i), dns.TypeTXT)
		r.Response = true
		for range 4 {
			r.Answer = append(r.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 3600}, Txt: []string{text}})
		}
		b, err := r.Pack()
		if err != nil {
			t.Fatal(err)
		}
		a, _, err := wire.NewAnswer(b)
		if err != nil {
			t.Fatal(err)
		}
		if !c.restore(&warmEntry{stored: c.now().UnixNano() - 1, life: int64(time.Hour), ttl: 3600, answer: a}) {
			t.Fatal("not stored")
		}
	}
	return c
}

// warmBound is the memory that a snapshot may take in addition to the cache, see
// warmBuffer.
const warmBound = 1 << 20

// A snapshot of any size is written within a bound of memory.
func TestWritingASnapshotTakesNoMemory(t *testing.T) {
	c := stuffed(t, Config{Warm: filepath.Join(t.TempDir(), "warm")}, 32<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := c.saveWarm(); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > warmBound {
		t.Errorf("%d bytes were allocated for a snapshot of %d entries", got, c.sides.Success.Store.Len())
	}
}

// measured looks at the memory in use, without garbage, while a file is read.
type measured struct {
	io.ReaderAt
	reads int
	most  uint64
}

func (m *measured) ReadAt(b []byte, at int64) (int, error) {
	if m.reads++; m.reads%64 == 0 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		m.most = max(m.most, s.HeapAlloc)
	}
	return m.ReaderAt.ReadAt(b, at)
}

// Reading takes no more than warmBound in addition to the entries of the cache.
func TestReadingASnapshotHoldsOneEntryAtATime(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the collector often")
	}
	file := filepath.Join(t.TempDir(), "warm")
	const size = 32 << 20
	func() {
		c := stuffed(t, Config{Warm: file}, size)
		if err := c.saveWarm(); err != nil {
			t.Fatal(err)
		}
	}()
	next, err := newCache("penstock", Config{Warm: file, MaxMem: 2 * size * 5 / 4}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	f, n, err := openWarm(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	was := next.sides.Success.Store.Bytes()
	m := &measured{ReaderAt: f}
	entries, err := next.readSnapshot(m, n)
	if err != nil || entries < 1000 {
		t.Fatal(entries, err)
	}
	grown := next.sides.Success.Store.Bytes() - was
	if peak := int64(m.most) - int64(before.HeapAlloc); peak > grown+2*warmBound {
		t.Errorf("%d bytes in use at the most, %d of them the cache's", peak, grown)
	}
}

// A file at FILE that is not a snapshot is detected at the start, and is never
// replaced.
func TestWarmReplacesOnlySnapshots(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	target := at("target")
	if err := errors.Join(
		os.WriteFile(target, []byte(warmMagic), 0o600),
		os.Symlink(target, at("link")),
		syscall.Mkfifo(at("fifo"), 0o600),
		os.Mkdir(at("dir"), 0o700),
		os.WriteFile(at("plain"), []byte("127.0.0.1 localhost\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// As root we could do harm to the real one.
	device := "/dev/null"
	if os.Geteuid() == 0 {
		device = "null"
		if err := syscall.Mknod(at(device), syscall.S_IFCHR|0o600, 1<<8|3); err != nil {
			t.Logf("without a device: %v", err)
			device = "dir"
		}
	}
	for _, tt := range []struct{ name, want string }{
		{"link", "a symbolic link"},
		{"fifo", "a FIFO"},
		{"dir", "a directory"},
		{"socket", "a socket"},
		{device, "a d"},
		{"missing/file", "the directory " + at("missing") + " does not exist"},
		{"plain/file", "not a directory"},
	} {
		path := tt.name
		if !filepath.IsAbs(path) {
			path = at(path)
		}
		before, _ := os.Lstat(path)
		c, _ := snapshotted(t, Config{Warm: path})
		ask(t, c, question("a.example.", dns.TypeA))
		if err := proc.warms.claim(c, "Corefile:1"); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
			proc.warms.release(c)
		}
		c.loadWarm() // returns
		if err := c.saveWarm(); err == nil {
			t.Errorf("%s was replaced", tt.name)
		}
		if after, _ := os.Lstat(path); (before == nil) != (after == nil) || before != nil && (before.Mode() != after.Mode() || !os.SameFile(before, after)) {
			t.Errorf("%s is no longer what it was", tt.name)
		}
	}
	// Another file is not an error at the start, but it is not replaced.
	c, _ := snapshotted(t, Config{Warm: at("plain")})
	if err := c.saveWarm(); err == nil || !strings.Contains(err.Error(), "not a snapshot") {
		t.Errorf("%v", err)
	}
	if b, err := os.ReadFile(at("plain")); err != nil || !bytes.HasPrefix(b, []byte("127.")) {
		t.Errorf("%q %v", b, err)
	}
	if left, _ := filepath.Glob(at("*.tmp")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// One owner for a file, in this process and beyond. A reload hands it on.
func TestWarmFileHasOneOwner(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "warm")
	if err := os.Symlink(dir, filepath.Join(dir, "way")); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "way", "warm")
	tmp := []string{file + ".123.tmp", file + ".x.tmp", file + "s.1.tmp"}
	for _, name := range tmp {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, _ := snapshotted(t, Config{Warm: file})
	b, _ := snapshotted(t, Config{Warm: other})
	if err := proc.warms.claim(a, "Corefile:3"); err != nil {
		t.Fatal(err)
	}
	// What a killed process has left goes, and nothing else.
	for i, name := range tmp {
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) != (i == 0) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := proc.warms.claim(b, "Corefile:9"); err == nil || !strings.Contains(err.Error(), "the server block at Corefile:3 has this file already") {
		t.Errorf("%v", err)
	}
	// As another process does: a descriptor of its own.
	if _, err := lockFile(file + ".lock"); !errors.Is(err, errLocked) {
		t.Errorf("%v", err)
	}
	if !proc.warms.mayWrite(a) || proc.warms.mayWrite(b) {
		t.Error("who may write?")
	}
	// A reload that fails, and one that doesn't.
	proc.warms.offer(a)
	if err := proc.warms.claim(b, "Corefile:9"); err != nil || !proc.warms.mayWrite(b) {
		t.Fatal(err)
	}
	if proc.warms.rollback(); !proc.warms.mayWrite(a) || proc.warms.mayWrite(b) {
		t.Error("after a failed reload")
	}
	proc.warms.offer(a)
	if err := proc.warms.claim(b, "Corefile:9"); err != nil {
		t.Fatal(err)
	}
	if proc.warms.release(a); !proc.warms.mayWrite(b) {
		t.Error("after a reload")
	}
	proc.warms.release(b)
	unlock, err := lockFile(file + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	if err := proc.warms.claim(a, "Corefile:3"); !errors.Is(err, errLocked) {
		t.Errorf("%v", err)
	}
	unlock()
	if _, err := os.Lstat(file + ".lock"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the lock stays: %v", err)
	}
}

func TestControlAndWarmOnOnePath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	if err := (Config{Control: path, Warm: dir + "/./x"}).Validate(); err == nil || !strings.Contains(err.Error(), "control and warm have the same path") {
		t.Errorf("%v", err)
	}
	// Of two blocks.
	a, _ := snapshotted(t, Config{Control: path})
	b, _ := snapshotted(t, Config{Warm: path})
	if err := proc.controls.claim(a); err != nil {
		t.Fatal(err)
	}
	if err := proc.warms.claim(b, "Corefile:2"); err == nil {
		t.Error("warm took the place of a control")
	}
	proc.controls.release(a)
	if err := proc.warms.claim(b, "Corefile:2"); err != nil {
		t.Fatal(err)
	}
	defer proc.warms.release(b)
	if err := proc.controls.claim(a); err == nil || !strings.Contains(err.Error(), "warm has this path") {
		t.Errorf("%v", err)
	}
}

// A file that another user could have written is not believed.
func TestTrustInASnapshot(t *testing.T) {
	for _, tt := range []struct {
		mode      fs.FileMode
		uid, gid  int
		forbidden string
	}{
		{0o600, 1000, 1000, ""},
		{0o644, 0, 0, ""},
		{0o600, 65534, 1000, "belongs to user 65534"},
		{0o666, 1000, 1000, "all users may write"},
		{0o602, 0, 0, "all users may write"},
		{0o660, 1000, 2000, ""}, // fsGroup of Kubernetes
		{0o660, 1000, 3000, "group 3000 may write"},
		{0o640, 1000, 3000, ""},
	} {
		err := trust(tt.mode, tt.uid, tt.gid, 1000, []int{1000, 2000})
		if (err == nil) != (tt.forbidden == "") || err != nil && (!errors.Is(err, errWarm) || !strings.Contains(err.Error(), tt.forbidden)) {
			t.Errorf("%v: %v", tt, err)
		}
	}
	file := filepath.Join(t.TempDir(), "warm")
	c, _ := snapshotted(t, Config{Warm: file})
	ask(t, c, question("a.example.", dns.TypeA))
	if err := c.saveWarm(); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != warmFileMode {
		t.Errorf("%v %v", st, err)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	next, _ := snapshotted(t, Config{Warm: file})
	if next.loadWarm(); next.sides.Success.Store.Len() != 0 {
		t.Error("anybody's file is believed")
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if next.loadWarm(); next.sides.Success.Store.Len() != 1 {
		t.Error("our own is not")
	}
}

// A length that lies is found before anything is stored.
func TestForgedSnapshotIsRejected(t *testing.T) {
	c, _ := snapshotted(t, Config{})
	ask(t, c, question("a.example.", dns.TypeA))
	var b bytes.Buffer
	if err := c.writeSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(b.Bytes())
	at := len(warmMagic) + 28
	bad[at], bad[at+1] = math.MaxUint8, math.MaxUint8
	next, _ := snapshotted(t, Config{})
	if n, err := next.readSnapshot(bytes.NewReader(bad), int64(len(bad))); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d %v", n, err)
	}
}
