package lint

import (
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/lint/prose"
)

// TestPlainEnglish compares each folder with the habits of hard English that it
// may have; package prose says which they are.
func TestPlainEnglish(t *testing.T) {
	t.Parallel()
	units, err := prose.Tree(root(), files(t, ".go", ".md"))
	if err != nil {
		t.Fatal(err)
	}
	ceilings, err := prose.ReadCeilings(strings.NewReader(read(t, "internal/lint/testdata/prose.ceilings")))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range prose.Check(units, ceilings) {
		var sentences strings.Builder
		prose.WriteFindings(&sentences, v.Findings)
		t.Errorf("%v\n%s", v, &sentences)
	}
}
