package s3stream

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// The defaults in docs/s3stream.md and docs/configuration.md are the code's.
func TestDocumentedDefaults(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	page, configuration := read("../docs/s3stream.md"), read("../docs/configuration.md")
	most := fmt.Sprintf("at most %d GiB (worker: %d MiB) |", maxLeaderMemory>>30, maxWorkerMemory>>20)
	for _, tt := range []struct{ in, want string }{
		{configuration, "| a quarter of the memory, " + most},
		{page, "| a quarter of the memory limit, " + most},
		{page, fmt.Sprintf("| %d MiB | the unit that is passed on", DefaultBlockBytes>>20)},
		{page, fmt.Sprintf("| %d s | silence after which", DefaultStall/time.Second)},
		{page, fmt.Sprintf("| %d min | how long the members may take", DefaultWait/time.Minute)},
		{page, fmt.Sprintf("the leader's (%d) from all workers", DefaultPort)},
		{page, fmt.Sprintf("a token of %d bytes or more", MinToken)},
		{configuration, fmt.Sprintf("the job's secret, %d bytes or more", MinToken)},
	} {
		if !strings.Contains(strings.Join(strings.Fields(tt.in), " "), tt.want) {
			t.Errorf("the documents do not have %q", tt.want)
		}
	}
}
