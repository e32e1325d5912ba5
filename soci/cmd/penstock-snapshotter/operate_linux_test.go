package main

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
)

// http returns the address that the daemon has logged for its metrics.
func (d *daemon) http(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(d.log.Name())
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`msg=serving .*http=(127\.0\.0\.1:\d+)`).FindSubmatch(text)
	if m == nil {
		return ""
	}
	return string(m[1])
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return string(body)
}

// TestPrivMetrics pulls once and checks that every metric of docs/metrics.md exists,
// and that the metrics that a pull changes have a value.
func TestPrivMetrics(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: containerd")
	}
	text, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var row string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `penstock-snapshotter` |") {
			row = line
		}
	}
	const prefix = "penstock_snapshotter_"
	names := regexp.MustCompile("`(?:"+prefix+`|\.\.\._)([a-z_]+)`+"`").FindAllStringSubmatch(row, -1)
	if len(names) < 15 {
		t.Fatalf("docs/metrics.md names %d metrics", len(names))
	}
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	dir := shortDir(t)
	n := containerd(t, dir, "")
	d := start(t, dir, "--http", "127.0.0.1:0")
	layer := file(t, "etc/motd", []byte("metrics\n"))
	n.do("images", "pull", "--snapshotter", "penstock", "--plain-http", push(t, o, "app:m", layer))
	var at string
	until(t, "the daemon says where", func() bool { at = d.http(t); return at != "" })
	page := get(t, "http://"+at+"/metrics")
	for _, name := range names {
		if name[1] == "fallbacks_total" { // it has no series before the first fallback
			continue
		}
		if !strings.Contains(page, "# TYPE "+prefix+name[1]+" ") {
			t.Errorf("%s is documented and not there", name[1])
		}
	}
	for _, want := range []string{
		`layers_total{outcome="ready"} 1`, `commits_total 1`, `prepare_seconds_count 1`, `images 0`, `layers 0`, `wrong_total 0`,
	} {
		if !strings.Contains(page, prefix+want+"\n") {
			t.Errorf("no line %s%s", prefix, want)
		}
	}
	if !strings.Contains(page, "process_resident_memory_bytes") || !strings.Contains(page, "go_goroutines") {
		t.Error("no metrics of the process")
	}
	if got := get(t, "http://"+at+"/pulls"); strings.TrimSpace(got) != "[]" {
		t.Errorf("/pulls: %q", got)
	}
}

// TestPrivGarbage collects garbage while an image is being pulled. The finished
// layers of the pull stay, and the layers of the removed image disappear.
func TestPrivGarbage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: containerd, runc")
	}
	hello, motd, old := file(t, "bin/hello", program(t)), file(t, "etc/motd", []byte("kept\n")), file(t, "etc/old", []byte("old\n"))
	gate := make(chan struct{})
	o, err := testorigin.Start(testorigin.Options{Tap: func(e testorigin.Event) {
		if e.Op == "GetBlob" && e.Key == key(motd) && !e.Done {
			<-gate // the pull waits for the upper layer
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(func() { open(); o.Close() })
	dir := shortDir(t)
	n := containerd(t, dir, "")
	d := start(t, dir)
	pull := func(ref string) error {
		_, err := n.try("images", "pull", "--snapshotter", "penstock", "--plain-http", ref)
		return err
	}
	before := push(t, o, "app:old", old)
	if err := pull(before); err != nil {
		t.Fatal(err)
	}
	ref := push(t, o, "app:new", hello, motd)
	ended := make(chan error, 2)
	go func() { ended <- pull(ref) }()
	until(t, "the lower layer is ready", func() bool { return d.entries("ready") == 1 })
	go func() { // the removal may wait for the pull
		_, err := n.try("images", "rm", "--sync", before)
		ended <- err
	}()
	until(t, "the image is gone", func() bool { return !strings.Contains(n.do("images", "ls", "--quiet"), before) })
	open()
	if err := errors.Join(<-ended, <-ended); err != nil {
		t.Fatal(err)
	}
	if got := d.entries("snapshots"); got != 2 {
		t.Errorf("%d snapshots, want the two of the image that was pulled", got)
	}
	if got := fetched(o, hello); got != size(hello) {
		t.Errorf("%d bytes of a layer of %d were fetched", got, size(hello))
	}
	if got := n.run(ref, "kept"); got != "hello from a container, kept\n" {
		t.Errorf("%q", got)
	}
	n.do("images", "rm", "--sync", ref)
	if left := d.entries("snapshots") + d.entries("ready") + d.entries("work"); left != 0 {
		t.Errorf("%d directories are left in %s", left, filepath.Base(d.root))
	}
}
