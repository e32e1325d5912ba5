package dnsplugin

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/dnsplugin/internal/front"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
)

// exported returns the names of the metrics that the plugin registers.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	reg := prometheus.NewRegistry()
	vec, err := meters.NewVectors(meters.Registrar{Into: reg, Flush: proc.listeners.Flush})
	if err != nil {
		t.Fatal(err)
	}
	fast, err := front.NewVectors(meters.Registrar{Into: reg, Flush: proc.listeners.Flush})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = vec, fast
	names, descs := map[string]bool{}, make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		reg.Describe(descs)
	}()
	name := regexp.MustCompile(`fqName: "([a-z_]+)"`)
	for d := range descs {
		names[name.FindStringSubmatch(d.String())[1]] = true
	}
	return names
}

// Each metric that the alerting rules look at is one that the plugin exports,
// and each is described in its manual page.
func TestAlertsUseExistingMetrics(t *testing.T) {
	names := exported(t)
	rules, err := os.ReadFile("deploy/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(rules)) {
		expr, ok := strings.CutPrefix(strings.TrimSpace(line), "expr: ")
		if !ok {
			continue
		}
		for _, name := range regexp.MustCompile(`coredns_[a-z_]+`).FindAllString(expr, -1) {
			seen++
			if !names[name] {
				t.Errorf("nothing exports %s", name)
			}
		}
	}
	if seen < 6 {
		t.Errorf("%d metrics in the rules", seen)
	}
	for _, must := range []string{"coredns_penstock_fastpath_shed_total", "coredns_penstock_fastpath_served_without_refresh_total"} {
		if !strings.Contains(string(rules), must) {
			t.Errorf("no alert for %s", must)
		}
	}
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range names {
		if !strings.Contains(string(page), name) {
			t.Errorf("README.md does not describe %s", name)
		}
	}
}

// quantity reads 512MiB, 2Gi and the like.
func quantity(t *testing.T, text string) int64 {
	t.Helper()
	m := regexp.MustCompile(`^(\d+)(Mi|Gi)B?$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%q", text)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if m[2] == "Gi" {
		n <<= 10
	}
	return n << 20
}

// The manifests follow the rule of docs/dnsplugin.md: the limit is at least maxmem
// plus 200 MiB, and GOMEMLIMIT at most nine tenths of it. They limit the size of UDP
// answers, so that a forged query amplifies little.
func TestManifestsKeepToTheRules(t *testing.T) {
	found := 0
	err := filepath.WalkDir("deploy", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Base(path) != "configmap.yaml" {
			return err
		}
		found++
		corefile, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !regexp.MustCompile(`(?m)^\s+bufsize 1232$`).Match(corefile) {
			t.Errorf("%s: no bufsize 1232", path)
		}
		deployment, err := os.ReadFile(filepath.Join(filepath.Dir(path), "deployment.yaml"))
		if err != nil {
			return err
		}
		value := func(text []byte, pattern string) int64 {
			m := regexp.MustCompile(pattern).FindSubmatch(text)
			if m == nil {
				t.Fatalf("%s: no %s", path, pattern)
			}
			return quantity(t, string(m[1]))
		}
		maxmem := value(corefile, `maxmem (\S+)`)
		limit := value(deployment, `limits:\s+cpu: "\d+"\s+memory: (\S+)`)
		goLimit := value(deployment, `GOMEMLIMIT\s+value: (\S+)`)
		if limit < maxmem+200<<20 || goLimit > limit*9/10 || goLimit < limit*8/10 {
			t.Errorf("%s: maxmem %d, limit %d, GOMEMLIMIT %d", path, maxmem, limit, goLimit)
		}
		return nil
	})
	if err != nil || found < 2 {
		t.Error(found, err)
	}
}
