package printable

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"access denied", 0, "access denied"},
		{"größe 10 µs, 模型", 0, "größe 10 µs, 模型"},
		{"clear \x1b[2J and \x1b]0;owned\x07", 0, `clear \x1b[2J and \x1b]0;owned\a`},
		{"first\nwarning: signature verified by penstock", 0, "first warning: signature verified by penstock"},
		{"a\r\nb\tc", 0, "a  b c"},
		{"caf\xe9", 0, `caf\xe9`},
		{"\u009b2J", 0, `\u009b2J`},
		{"abc\u202etxt.exe", 0, `abc\u202etxt.exe`},
		{"line\u2028break", 0, `line\u2028break`},
		{"0123456789", 10, "0123456789"},
		{"0123456789a", 10, "0123456..."},
		{"\x1b\x1b\x1b", 8, `\x1b...`},
		{"", 5, ""},
	} {
		if got := Line(c.in, c.limit); got != c.want {
			t.Errorf("Line(%q, %d) = %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

func TestError(t *testing.T) {
	t.Parallel()
	err := errors.Join(errors.New("one"), errors.New("two\x1b[2J"))
	if got, want := Error(err, 0), `one; two\x1b[2J`; got != want {
		t.Errorf("Error = %q, want %q", got, want)
	}
}

func FuzzLine(f *testing.F) {
	f.Add("plain", 3)
	f.Add("\x1b[2J\u2028\xff\u202e", 9)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		got := Line(s, limit)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !visible(r) }) {
			t.Errorf("Line(%q) = %q, which is not printable", s, got)
		}
		if limit > len(ellipsis) && len(got) > limit {
			t.Errorf("Line(%q, %d) has %d bytes", s, limit, len(got))
		}
		if Line(got, 0) != got {
			t.Errorf("Line(%q) changes its own result", s)
		}
	})
}
