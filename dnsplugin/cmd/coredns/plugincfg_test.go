package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The lines that the manual page puts into plugin.cfg.
var cfgLine = regexp.MustCompile(`(?m)^(penstock|cache):(github\.com/penstock/\S+)$`)

// cfgLines are the lines of the manual page, by directive.
func cfgLines(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{}
	for _, m := range cfgLine.FindAllStringSubmatch(string(b), -1) {
		lines[m[1]] = m[2]
	}
	return lines
}

// The cheap half of the test below: the lines name packages that are there,
// and CoreDNS's plugin.cfg has the line that they replace.
func TestPluginCfgLinesNamePackages(t *testing.T) {
	lines := cfgLines(t)
	if len(lines) != 2 {
		t.Fatalf("%v", lines)
	}
	for directive, path := range lines {
		dir := filepath.Join("../../..", strings.TrimPrefix(path, "github.com/penstock/penstock/"))
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			t.Errorf("%s: %v", directive, err)
		}
	}
	cfg, err := os.ReadFile(filepath.Join(coreDNSSource(t), "plugin.cfg"))
	if err != nil || !strings.Contains(string(cfg), "\ncache:cache\n") {
		t.Errorf("plugin.cfg has no line cache:cache: %v", err)
	}
}

// coreDNSSource is where the source of the CoreDNS that we are built with lies.
func coreDNSSource(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/coredns/coredns").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// A CoreDNS is built as the manual page says: its own source, plugin.cfg,
// go.mod, go generate, go build. It needs the module proxy, or a module cache
// that has what CoreDNS's generators need.
func TestCoreDNSBuiltByPluginCfg(t *testing.T) {
	if testing.Short() {
		t.Skip("builds CoreDNS from its source")
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "coredns")
	if err := os.CopyFS(source, os.DirFS(coreDNSSource(t))); err != nil {
		t.Fatal(err)
	}
	// The module cache is read-only, and so is its copy.
	if err := filepath.WalkDir(source, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return os.Chmod(path, 0o644)
	}); err != nil {
		t.Fatal(err)
	}
	cfg, err := os.ReadFile(filepath.Join(source, "plugin.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	lines := cfgLines(t)
	text := strings.Replace(string(cfg), "\ncache:cache\n", "\npenstock:"+lines["penstock"]+"\ncache:"+lines["cache"]+"\n", 1)
	write(t, source, "plugin.cfg", text)
	here, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "built")
	for _, args := range [][]string{
		{"mod", "edit", "-require", "github.com/penstock/penstock@v0.0.0", "-replace", "github.com/penstock/penstock=" + here},
		{"generate", "coredns.go"},
		{"build", "-ldflags=-s -w", "-o", bin, "."},
	} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = source
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	const corefile = `a.test:%s {
    bind 127.0.0.1
    cache {
        maxmem 8MiB
    }
    template IN A {
        answer "{{ .Name }} 60 IN A 192.0.2.1"
    }
}
b.test:%[1]s {
    bind 127.0.0.1
    penstock {
        stale
    }
    template IN A {
        answer "{{ .Name }} 60 IN A 192.0.2.2"
    }
}
`
	s, addr := serveBy(t, bin, func() (string, string, string) {
		port := freePort(t)
		return fmt.Sprintf(corefile, port), "127.0.0.1:" + port, "www.a.test."
	})
	for name, want := range map[string]string{"www.a.test.": "192.0.2.1", "www.b.test.": "192.0.2.2"} {
		for range 2 {
			if a := ask(t, addr, name); len(a.Sections[0]) != 1 || !strings.HasSuffix(a.Sections[0][0], want) {
				t.Errorf("%s: %v", name, a)
			}
		}
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(s.out.String(), "Fast path at dns://"+addr) {
		t.Error("no fast path")
	}
}

// CoreDNS's own program refuses options that are ours, and says which: what to
// take out of a Corefile before going back.
func TestCoreDNSRefusesOurOptions(t *testing.T) {
	if testing.Short() {
		t.Skip("builds CoreDNS")
	}
	for _, option := range []string{"maxmem 64MiB", "stale", "coalesce off", "fastpath off", "workers 1", "batch 8", "warm /tmp/x", "control /tmp/y", "nxcut"} {
		conf := write(t, t.TempDir(), "Corefile", ".:"+freePort(t)+" {\n    bind 127.0.0.1\n    cache {\n        "+option+"\n    }\n    whoami\n}\n")
		cmd, out := run(t, stockBinary(t), "-conf", conf)
		if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), strings.Fields(option)[0]) {
			t.Errorf("%s: %v\n%s", option, err, out)
		}
	}
}
