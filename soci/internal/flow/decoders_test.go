package flow

import (
	"testing"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/soci/internal/inflate"
)

// TestDecoders checks that half of the cores decode, in at most a quarter of
// the memory, and that decoders never waits for memory.
func TestDecoders(t *testing.T) {
	t.Parallel()
	const worker = inflate.WorkerMemory
	for _, tt := range []struct {
		limit, used int64 // workers' worth
		cores, want int
		indexed     bool
	}{
		{16, 0, 2, 0, false},
		{16, 0, 3, 0, false},
		{16, 0, 4, 2, false},
		{16, 0, 64, 4, false},
		{64, 0, 16, 8, false},
		{7, 0, 64, 0, false},
		{16, 13, 64, 3, false},
		{16, 15, 64, 0, false},
		{16, 0, 2, 2, true},
		{16, 0, 1, 0, true},
		{64, 0, 12, 12, true},
	} {
		mem := budget.New(tt.limit * worker)
		mem.Force(tt.used * worker)
		got := decoders(mem, tt.cores, tt.indexed)
		if got != tt.want || mem.InUse() != (tt.used+int64(got))*worker {
			t.Errorf("%+v: %d workers, %d bytes in use", tt, got, mem.InUse())
		}
	}
}
