package budget

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The default in docs/configuration.md equals the code's.
func TestDocumentedDefaults(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if fraction != 4 {
		t.Errorf("the default is 1/%d of the memory, but the documentation says a quarter", fraction)
	}
	bounds := fmt.Sprintf("a quarter of the cgroup's memory, %d MiB to %d GiB |", minDefault>>20, maxDefault>>30)
	for _, row := range []string{"| engine | `ranges.Options.Budget` | ", "| `csi` | `Memory` | "} {
		if !strings.Contains(string(raw), row+bounds) {
			t.Errorf("docs/configuration.md does not have %q", row+bounds)
		}
	}
}
