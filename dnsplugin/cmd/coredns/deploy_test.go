package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/caddy/caddyfile"
	"github.com/coredns/coredns/core/dnsserver"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/penstock/penstock/dnsplugin"
)

const (
	deployDir = "../../deploy"
	base      = "base/"
)

// kustomization is the part of one that we use.
type kustomization struct {
	APIVersion, Kind, Namespace string
	Resources                   []string
	Labels                      []struct{ Pairs map[string]string }
	Images                      []struct{ Name, NewName, NewTag string }
	Patches                     []struct {
		Path, Patch string
		Target      struct{ Kind, Name string }
	}
}

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
	var k kustomization
	read(t, base+"kustomization.yaml", &k)
	for _, r := range k.Resources {
		if _, err := os.Stat(filepath.Join(deployDir, base, r)); err != nil {
			t.Error(err)
		}
	}
	var account corev1.ServiceAccount
	var role rbacv1.ClusterRole
	var binding rbacv1.ClusterRoleBinding
	read(t, base+"rbac.yaml", &account, &role, &binding)
	var d appsv1.Deployment
	var s corev1.Service
	var p policyv1.PodDisruptionBudget
	var cm corev1.ConfigMap
	read(t, base+"deployment.yaml", &d)
	read(t, base+"service.yaml", &s)
	read(t, base+"pdb.yaml", &p)
	read(t, base+"configmap.yaml", &cm)

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
	if p := c.SecurityContext.SeccompProfile; p == nil || p.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("seccomp profile %v", p)
	}
	if !c.Resources.Requests.Cpu().Equal(*c.Resources.Limits.Cpu()) || c.Resources.Limits.Memory().Value() < 1800<<20 {
		t.Errorf("resources %v", c.Resources)
	}
}

// What overlays patch and add is there in the base, and goes with it.
func TestOverlaysFitTheBase(t *testing.T) {
	var d appsv1.Deployment
	read(t, base+"deployment.yaml", &d)
	for _, overlay := range []string{"overlays/autoscaled/", "overlays/trial/"} {
		var k kustomization
		read(t, overlay+"kustomization.yaml", &k)
		if k.Namespace != "kube-system" || k.Resources[0] != "../../base" {
			t.Errorf("%s: namespace %s, resources %v", overlay, k.Namespace, k.Resources)
		}
		for _, p := range k.Patches {
			if p.Path == "" && (p.Target.Kind != "Deployment" || p.Target.Name != d.Name) {
				t.Errorf("%s patches %v", overlay, p.Target)
			}
		}
	}
	var h autoscalingv2.HorizontalPodAutoscaler
	read(t, "overlays/autoscaled/hpa.yaml", &h)
	if h.Spec.ScaleTargetRef.Name != d.Name || *h.Spec.MinReplicas != *d.Spec.Replicas || *h.Spec.Metrics[0].Resource.Target.AverageUtilization != 60 {
		t.Errorf("%+v", h.Spec)
	}
	var small appsv1.Deployment
	read(t, "overlays/trial/deployment.yaml", &small)
	c := small.Spec.Template.Spec.Containers[0]
	limit, err := strconv.ParseInt(strings.TrimSuffix(c.Env[0].Value, "MiB"), 10, 64)
	if err != nil || small.Name != d.Name || c.Name != d.Spec.Template.Spec.Containers[0].Name || c.Env[0].Name != "GOMEMLIMIT" || limit<<20 >= c.Resources.Limits.Memory().Value() {
		t.Errorf("%+v", c)
	}
	var big, little corev1.ConfigMap
	read(t, base+"configmap.yaml", &big)
	read(t, "overlays/trial/configmap.yaml", &little)
	if little.Name != big.Name || little.Data["Corefile"] != strings.Replace(big.Data["Corefile"], "maxmem 512MiB", "maxmem 64MiB", 1) {
		t.Errorf("the Corefile is another one: %s", little.Data["Corefile"])
	}
}

// kustomize takes base and overlays, where it is installed.
func TestKustomizeBuilds(t *testing.T) {
	build := []string{"kustomize", "build"}
	if _, err := exec.LookPath(build[0]); err != nil {
		build = []string{"kubectl", "kustomize"}
	}
	if _, err := exec.LookPath(build[0]); err != nil {
		t.Skip("neither kustomize nor kubectl")
	}
	for dir, want := range map[string]string{"base": "replicas: 3", "overlays/autoscaled": "minReplicas: 3", "overlays/trial": "replicas: 1"} {
		out, err := exec.CommandContext(t.Context(), build[0], append(build[1:], filepath.Join(deployDir, dir))...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), "image: registry.example.com/penstock-dns:v1") {
			t.Errorf("%s: %v: %s", dir, err, out)
		}
	}
}

// The Corefile must have only directives that the program has, and options
// that the plugin takes.
func TestDeployedCorefile(t *testing.T) {
	var cm corev1.ConfigMap
	read(t, base+"configmap.yaml", &cm)
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
