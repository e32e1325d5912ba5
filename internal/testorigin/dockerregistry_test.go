package testorigin_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/penstock/penstock/internal/testorigin/ociconformance"
	"github.com/penstock/penstock/internal/testport"
)

// TestDockerRegistryConformance runs the registry suite against the CNCF's
// distribution registry, on which most others are based.
func TestDockerRegistryConformance(t *testing.T) {
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed: apt-get install docker-registry")
	}
	addr, dir := testport.Addr(t), t.TempDir()
	config := filepath.Join(dir, "config.yml")
	err = os.WriteFile(config, fmt.Appendf(nil, `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
http: {addr: %q}
`, filepath.Join(dir, "data"), addr), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	startServer(t, addr, bin, "serve", config)
	ociconformance.Run(t, ociconformance.Config{Host: addr, Skip: map[string]string{
		"ggcr/tags":            "version 2.8 lists tags in no order and without pages",
		"containerd/referrers": "version 2.8 has no referrers API (go-containerregistry falls back to a tag, containerd does not)",
	}})
}
