package redacttest

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// recorder collects the errors of a check.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

type leaky struct {
	Name     string
	APIToken string
}

type nested struct {
	inner leaky //nolint:unused // the check fills it
}

type careful struct {
	password []byte //nolint:unused // the check fills it
}

func (careful) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "careful") }

// TestCheckFails runs the check on structs with each of the mistakes that it
// must find.
func TestCheckFails(t *testing.T) {
	for _, tt := range []struct {
		sample   any
		harmless map[string]string
		want     []string // parts of the expected errors; there must be no others
	}{
		{new(leaky), nil, []string{"leaky shows a secret", "leaky is a sample but not"}},
		{new(nested), nil, []string{"nested shows a secret", "nested is a sample but not"}},
		{new(careful), nil, []string{"careful is a sample but not"}},
		{new(leaky), map[string]string{"leaky.APIToken": "public"}, []string{"leaky is a sample but not"}},
		{new(leaky), map[string]string{"leaky.APIToken": ""}, []string{"leaky shows a secret", "leaky is a sample but not", "the reason is missing"}},
		{new(careful), map[string]string{"careful.Token": "stale"}, []string{"careful is a sample but not", "there is no such field"}},
	} {
		r := &recorder{TB: t}
		Check(r, tt.harmless, tt.sample)
		for _, e := range r.errors {
			found := false
			for _, w := range tt.want {
				found = found || strings.Contains(e, w)
			}
			if !found {
				t.Errorf("%T: unexpected error %s", tt.sample, e)
			}
		}
		for _, w := range tt.want {
			if !strings.Contains(strings.Join(r.errors, "\n"), w) {
				t.Errorf("%T: no error with %q among %q", tt.sample, w, r.errors)
			}
		}
	}
}

func TestCheckFindsMissingSamples(t *testing.T) {
	t.Chdir("../../disk") // has the exported struct Options
	r := &recorder{TB: t}
	Check(r, nil)
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], "Options is an exported struct") {
		t.Errorf("%q", r.errors)
	}
}
