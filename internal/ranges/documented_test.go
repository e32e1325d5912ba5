package ranges

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// The defaults in docs/configuration.md equal the code's.
func TestDocumentedDefaults(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	h := HedgePolicy{}.withDefaults()
	r := RetryPolicy{}.WithDefaults()
	if r.Attempts != 0 {
		t.Errorf("%d attempts by default, but the documentation says that they are not bounded", r.Attempts)
	}
	for _, want := range []string{
		fmt.Sprintf("| `PartBytes` | %d MiB |", defaultPart>>20),
		fmt.Sprintf("| `TargetRate` | %d Gbit/s |", defaultRate*8/1_000_000_000),
		fmt.Sprintf("| `MaxConns` | %d |", defaultConns),
		fmt.Sprintf("| `Hedge.Quantile` | %g |", h.Quantile),
		fmt.Sprintf("| `Hedge.Floor` | %d ms |", h.Floor/time.Millisecond),
		fmt.Sprintf("| `Hedge.Budget` | %g |", h.Budget),
		fmt.Sprintf("| `Outage`; `--outage` of every program | %d s |", r.Outage/time.Second),
		fmt.Sprintf("| `Stall` | %d s |", r.Stall/time.Second),
		fmt.Sprintf("| `LeastRate` | %d KiB/s |", r.LeastRate>>10),
		fmt.Sprintf("| `Base`, `Max` | %d ms, %d s |", r.Base/time.Millisecond, r.Max/time.Second),
	} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("docs/configuration.md does not have %q", want)
		}
	}
}
