package printable

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line returns s as one line of at most limit bytes, with an ellipsis if it is cut.
// Printable characters and blanks stay. Control characters (C0, C1, DEL), line and
// paragraph separators, characters that change the direction of text, and bytes
// outside UTF-8 become Go escapes such as \x1b or \u202e. A line break or tab
// becomes one blank, because servers wrap their messages. A limit of 0 or less
// means no limit.
func Line(s string, limit int) string {
	if plain(s) && (limit <= 0 || len(s) <= limit) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		piece := s[i : i+n]
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			piece = " "
		case r == utf8.RuneError && n == 1:
			piece = `\x` + strconv.FormatUint(uint64(s[i])|0x100, 16)[1:]
		case !visible(r):
			piece = strings.Trim(strconv.QuoteToASCII(piece), `"`)
		}
		if limit > 0 && b.Len()+len(piece)+len(ellipsis) > limit {
			// The last piece may fit without an ellipsis.
			if i+n < len(s) || b.Len()+len(piece) > limit {
				b.WriteString(ellipsis)
				break
			}
		}
		b.WriteString(piece)
		i += n
	}
	return b.String()
}

const ellipsis = "..."

// Error returns the text of an error as one line. Semicolons separate the errors of
// errors.Join.
func Error(err error, limit int) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' })
	return Line(strings.Join(lines, "; "), limit)
}

// plain reports whether s is printable ASCII.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= utf8.RuneSelf || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// visible reports whether a terminal shows the character as itself.
func visible(r rune) bool {
	return unicode.IsPrint(r) && !unicode.Is(unicode.Bidi_Control, r)
}
