package flow

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDocumentedRatioFree checks that docs/soci.md states the default of RatioFree
// in the code.
func TestDocumentedRatioFree(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../../docs/soci.md")
	if err != nil {
		t.Fatal(err)
	}
	if ratioFreeShare != 8 {
		t.Errorf("RatioFree is 1/%d of the disk: documented is an eighth", ratioFreeShare)
	}
	want := fmt.Sprintf("| `RatioFree` | an eighth of the free disk, %d MiB to %d GiB |", minRatioFree/mib, maxRatioFree>>30)
	if !strings.Contains(string(raw), want) {
		t.Errorf("docs/soci.md does not have %q", want)
	}
}
