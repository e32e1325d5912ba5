package testorigin_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/penstock/penstock/internal/testorigin/s3conformance"
	"github.com/penstock/penstock/internal/testport"
)

const versitygwModule = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"

// versityDiffers lists the checks that versitygw v1.8.0 fails, with the reason
// why the origin is right.
var versityDiffers = map[string]string{
	"get/unknown-access-key":           "answers 404 XAdminUserNotFound where S3 answers 403 InvalidAccessKeyId",
	"list/file-and-folder-of-one-name": "posix backend: a key can't be both a file and a folder (409 ObjectParentIsFile)",
	"list/odd-keys-url-encoded":        "ignores encoding-type=url",
	"list/control-characters":          "ignores encoding-type=url, and XML can't carry the characters otherwise",
	"list/double-slash":                "posix backend: // is the same as / in a path",
	"list/bad-token":                   "takes any string for a continuation token",
	"multipart/attributes":             "GetObjectAttributes gives no parts of a completed upload",
	"versions/list-pages":              "pages of one version give the first version again and again",
}

// installVersitygw builds the gateway once, into a cache folder that other test
// runs share.
func installVersitygw(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("PENSTOCK_TOOLS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Skip("no folder for tools: set PENSTOCK_TOOLS:", err)
		}
		dir = filepath.Join(cache, "penstock", "tools")
	}
	dir = filepath.Join(dir, "versitygw-v1.8.0")
	bin := filepath.Join(dir, "versitygw")
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	cmd := exec.CommandContext(t.Context(), "go", "install", versitygwModule)
	cmd.Dir = t.TempDir() // outside any module
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	t.Log("building", versitygwModule, "into", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("versitygw can't be installed here: %v\n%s", err, bytes.TrimSpace(out))
	}
	return bin
}

// startVersitygw runs the gateway over a temporary folder until the end of the
// test, and returns its endpoint.
func startVersitygw(t *testing.T, bin string) string {
	t.Helper()
	root, versions, addr := t.TempDir(), t.TempDir(), testport.Addr(t)
	startServer(t, addr, bin, "--port", addr, "--access", accessKey, "--secret", secretKey, "--quiet",
		"posix", "--versioning-dir", versions, root)
	return "http://" + addr
}

const accessKey, secretKey = "conformance", "conformance-secret"

// TestVersitygwConformance runs the origin's suite against a real server, so
// that the suite and the origin keep the behaviour of servers.
func TestVersitygwConformance(t *testing.T) {
	endpoint := startVersitygw(t, installVersitygw(t))
	s3conformance.Run(t, s3conformance.Config{
		Endpoint: endpoint, AccessKey: accessKey, SecretKey: secretKey, Skip: versityDiffers,
	})
}
