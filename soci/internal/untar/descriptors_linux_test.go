package untar

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/penstock/penstock/soci/internal/tarfile/tartest"
)

// descriptorCounter counts the open descriptors of the process at each
// NextBlock.
type descriptorCounter struct {
	tartest.Blocks
	t    *testing.T
	most int
}

func (w *descriptorCounter) NextBlock(ctx context.Context) (Block, error) {
	w.most = max(w.most, descriptors(w.t))
	return w.Blocks.NextBlock(ctx)
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("needs /proc: ", err)
	}
	return len(names)
}

// TestDescriptors checks that the number of open files depends on the writers,
// not on the archive. Daemons extract many layers concurrently, and often have
// a limit of 1024.
func TestDescriptors(t *testing.T) {
	x := newTB(t)
	var in []ent
	for i := range 150 {
		in = append(in, dir(fmt.Sprint("d", i)), file(fmt.Sprint("d", i, "/f"), bigContent(3000)), file(fmt.Sprint("d", i, "/e/g"), "x"),
			hard(fmt.Sprint("d", i, "/h"), fmt.Sprint("d", i, "/f")), symlink(fmt.Sprint("l", i), fmt.Sprint("d", i)), file(fmt.Sprint("l", i, "/k"), "y"))
		if i%50 == 0 {
			in = append(in, file(fmt.Sprint("d", i, "/large"), bigContent(2<<20)))
		}
	}
	before := descriptors(t)
	src := &descriptorCounter{Blocks: tartest.Blocks{Data: archive(t, in...), Size: 32 << 10}, t: t}
	l, err := Extract(t.Context(), src, x.root, Options{Pool: x.pool, Meter: newMeter(DefaultLimits())})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Settle(); err != nil {
		t.Fatal(err)
	}
	const writers, spare = 3, 8 // as in newTB; for the duration of a call
	if most := before + maxWorks + writers*batchOps + spare; src.most > most {
		t.Errorf("%d descriptors were open, %d before: more than %d", src.most, before, most)
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}
