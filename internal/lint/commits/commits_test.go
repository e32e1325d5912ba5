package commits

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ message, want string }{
		{"soci: redact credentials in every format", ""},
		{"ranges, s3: keep answers without an ETag together\n\nBecause of this.\n", ""},
		{"soci/internal/untar: move the reader into tarfile", ""},
		{"docs: write the benchmark tables from the recorded results", ""},
		{"Merge branch 'x'", ""},
		{"s3: pass the server's clock on", ""},
		{"dns: feed the fuzz target", ""},

		{"soci: " + strings.Repeat("x", 70), "76 characters"},
		{"soci: add this; csi: remove that", "several changes"},
		{"soci: add this.", "full stop"},
		{"Add a thing", "area: change"},
		{"a password that ran out is renewed", "area: change"},
		{"s3stream: the leader's death ends a job", `begins with "the"`},
		{"s3: adds a header", `begins with "adds"`},
		{"s3: added a header", `begins with "added"`},
		{"s3: adding a header", `begins with "adding"`},
		{"s3: a HEAD without a length", `begins with "a"`},
		{"s3: add a header\nright away", "empty line"},
		{"s3: add a header\n\n" + strings.Repeat("word ", 21), "more than 100"},
	} {
		got := strings.Join(Check(c.message), "; ")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%q: %q, want %q", c.message, got, c.want)
		}
	}
}
