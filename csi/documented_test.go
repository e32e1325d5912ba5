package csi

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/csi/internal/fs"
)

// The defaults in docs/csi.md are the code's.
func TestDocumentedDefaults(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../docs/csi.md")
	if err != nil {
		t.Fatal(err)
	}
	if fs.DefaultMetadataTTL != time.Second {
		t.Errorf("metadata is reused for %v, documented is a second", fs.DefaultMetadataTTL)
	}
	for _, want := range []string{"is reused for a second", "that begin with `" + DefaultKubeletDir + "`"} {
		if !strings.Contains(strings.Join(strings.Fields(string(raw)), " "), want) {
			t.Errorf("docs/csi.md does not have %q", want)
		}
	}
}
