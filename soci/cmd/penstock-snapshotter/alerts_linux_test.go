package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/yaml"

	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

// TestPrivAlerts checks that the daemon has every metric and label that the alert
// rules name.
func TestPrivAlerts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: overlayfs")
	}
	data, err := os.ReadFile("../../deploy/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.UnmarshalStrict(data, &rules); err != nil {
		t.Fatal(err)
	}
	puller, err := soci.New(soci.Options{HostsDir: "none"})
	if err != nil {
		t.Fatal(err)
	}
	defer puller.Close()
	reg := prometheus.NewRegistry()
	s, err := snapshotter.New(snapshotter.Options{Root: filepath.Join(t.TempDir(), "sn"), Puller: puller, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	described := make(chan *prometheus.Desc, 1000)
	reg.Describe(described)
	close(described)
	known := make(map[string]string)
	for d := range described {
		m := regexp.MustCompile(`fqName: "([^"]*)".*variableLabels: (.*)}`).FindStringSubmatch(d.String())
		if m == nil {
			t.Fatal(d)
		}
		known[m[1]] = m[2]
	}
	metric, label := regexp.MustCompile(`penstock_[a-z_]+`), regexp.MustCompile(`(penstock_[a-z_]+)\{([a-z]+)=`)
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			names := metric.FindAllString(r.Expr, -1)
			if len(names) == 0 || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: %+v", r.Alert, r)
			}
			for _, name := range names {
				if _, ok := known[name]; !ok {
					t.Errorf("%s: there is no metric %s", r.Alert, name)
				}
			}
			for _, m := range label.FindAllStringSubmatch(r.Expr, -1) {
				if !regexp.MustCompile(`\b` + m[2] + `\b`).MatchString(known[m[1]]) {
					t.Errorf("%s: %s has no label %s: %s", r.Alert, m[1], m[2], known[m[1]])
				}
			}
		}
	}
	if n == 0 {
		t.Error("no rules")
	}
}
