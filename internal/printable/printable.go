package printable

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line returns s as one line of at most limit bytes, with an ellipsis at a cut. Printable characters and plain
// blanks stay; control characters (C0, C1, DEL), line and paragraph separators, characters that change the
// direction of text, and bytes that are no UTF-8 appear as Go escapes such as \x1b or \u202e. Line breaks and tabs
// appear as one blank, since servers wrap their messages. A limit of 0 or less sets none.
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
			// The rest may still fit exactly; only then is there no cut.
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

// Error returns the text of an error by Line, the errors of errors.Join separated by semicolons.
func Error(err error, limit int) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' })
	return Line(strings.Join(lines, "; "), limit)
}

func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= utf8.RuneSelf || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// visible reports whether a terminal shows the character as itself and nothing else.
func visible(r rune) bool {
	return unicode.IsPrint(r) && !unicode.Is(unicode.Bidi_Control, r)
}
