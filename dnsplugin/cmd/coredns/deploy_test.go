package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/caddy/caddyfile"
	"github.com/coredns/coredns/core/dnsserver"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/penstock/penstock/dnsplugin"
)

const deployDir = "../../deploy"

// read decodes the documents of a manifest as strictly as the API server does.
func read(t *testing.T, name string, into ...any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(deployDir, name))
	if err != nil {
		t.Fatal(err)
	}
	docs := strings.Split(string(data), "\n---\n")
	if len(docs) != len(into) {
		t.Fatalf("%s: %d documents", name, len(docs))
	}
	for i, d := range docs {
		if err := yaml.UnmarshalStrict([]byte(d), into[i]); err != nil {
			t.Fatalf("%s, document %d: %v", name, i, err)
		}
	}
}

func TestManifestsFitTogether(t *testing.T) {
	var k struct {
		APIVersion, Kind, Namespace string
		Resources                   []string
		Labels                      []struct{ Pairs map[string]string }
		Images                      []struct{ Name, NewName, NewTag string }
	}
	read(t, "kustomization.yaml", &k)
	for _, r := range k.Resources {
		if _, err := os.Stat(filepath.Join(deployDir, r)); err != nil {
			t.Error(err)
		}
	}
	var account corev1.ServiceAccount
	var role rbacv1.ClusterRole
	var binding rbacv1.ClusterRoleBinding
	read(t, "rbac.yaml", &account, &role, &binding)
	var d appsv1.Deployment
	var s corev1.Service
	var p policyv1.PodDisruptionBudget
	var cm corev1.ConfigMap
	read(t, "deployment.yaml", &d)
	read(t, "service.yaml", &s)
	read(t, "pdb.yaml", &p)
	read(t, "configmap.yaml", &cm)

	pod := d.Spec.Template
	for what, selector := range map[string]map[string]string{
		"deployment": d.Spec.Selector.MatchLabels, "service": s.Spec.Selector, "budget": p.Spec.Selector.MatchLabels,
	} {
		for key, v := range selector {
			if pod.Labels[key] != v {
				t.Errorf("the %s selects %s=%s, which the pods don't have", what, key, v)
			}
		}
	}
	c := pod.Spec.Containers[0]
	ports := map[string]corev1.Protocol{}
	for _, port := range c.Ports {
		ports[port.Name] = port.Protocol
	}
	for _, port := range s.Spec.Ports {
		if ports[port.TargetPort.StrVal] != port.Protocol {
			t.Errorf("service port %s leads to no port of the pods", port.Name)
		}
	}
	if *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyPreferDualStack {
		t.Error("not dual stack")
	}
	if pod.Spec.ServiceAccountName != account.Name || binding.Subjects[0].Name != account.Name || binding.RoleRef.Name != role.Name ||
		pod.Spec.Volumes[0].ConfigMap.Name != cm.Name || c.Image != k.Images[0].Name {
		t.Error("names don't fit together")
	}
	if !c.Resources.Requests.Cpu().Equal(*c.Resources.Limits.Cpu()) || c.Resources.Limits.Memory().Value() < 1800<<20 {
		t.Errorf("resources %v", c.Resources)
	}
}

// The Corefile must have only directives that the program has, and options
// that the plugin takes.
func TestDeployedCorefile(t *testing.T) {
	var cm corev1.ConfigMap
	read(t, "configmap.yaml", &cm)
	blocks, err := caddyfile.Parse("Corefile", strings.NewReader(cm.Data["Corefile"]), directives(dnsserver.Directives))
	if err != nil {
		t.Fatal(err)
	}
	tokens := blocks[0].Tokens["cache"]
	if len(tokens) == 0 {
		t.Fatal("no cache")
	}
	ctl := caddy.NewTestController("dns", "")
	ctl.Dispenser = caddyfile.NewDispenserTokens("Corefile", tokens)
	ctl.ServerBlockKeys = blocks[0].Keys
	cfg, err := dnsplugin.Parse(ctl)
	if err != nil || cfg.MaxMem != 512<<20 || cfg.Stale.UpTo != dnsplugin.RFCStale {
		t.Errorf("%+v %v", cfg, err)
	}
}
