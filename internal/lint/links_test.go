package lint

import (
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var headingLine = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)

// anchors returns the identifiers that GitHub gives the headings of a document.
func anchors(text string) map[string]bool {
	ids := map[string]bool{}
	fenced := regexp.MustCompile("(?s)```.*?```|~~~.*?~~~")
	seen := map[string]int{}
	for _, m := range headingLine.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		var b strings.Builder
		for _, r := range strings.ToLower(m[1]) {
			switch {
			case r == ' ':
				b.WriteByte('-')
			case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r >= 0x80:
				b.WriteRune(r)
			}
		}
		id := b.String()
		if n := seen[id]; n > 0 {
			ids[id+"-"+strconv.Itoa(n)] = true
		}
		seen[id]++
		ids[id] = true
	}
	return ids
}

var linkToHeading = regexp.MustCompile(`\]\(([^)#\s]*)#([^)\s]+)\)`)

func TestAnchorsInDocumentsExist(t *testing.T) {
	t.Parallel()
	for _, d := range documents(t) {
		for _, m := range linkToHeading.FindAllStringSubmatch(read(t, d), -1) {
			if strings.Contains(m[1], ":") {
				continue // an address
			}
			to := d
			if m[1] != "" {
				to = path.Join(path.Dir(d), m[1])
			}
			if strings.HasSuffix(to, ".md") && exists(to) && !anchors(read(t, to))[m[2]] {
				t.Errorf("%s links to %s#%s, which is not a heading there", d, to, m[2])
			}
		}
	}
}

// The tables of messages in the documents quote the programs. A quotation that
// no source has is an old one; "..." stands for a part that varies.
func TestMessagesInDocumentsAreTheCodes(t *testing.T) {
	t.Parallel()
	var src strings.Builder
	for _, f := range files(t, ".go") {
		if !strings.HasSuffix(f, "_test.go") {
			src.WriteString(read(t, f))
		}
	}
	quoted := 0
	for _, d := range documents(t) {
		inTable := false
		for line := range strings.Lines(read(t, d)) {
			if strings.HasPrefix(line, "| message |") {
				inTable = true
				continue
			}
			if inTable = inTable && strings.HasPrefix(line, "|"); !inTable {
				continue
			}
			cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
			for _, m := range inlineCode.FindAllStringSubmatch(cell, -1) {
				quoted++
				for part := range strings.SplitSeq(m[1], "...") {
					if !strings.Contains(src.String(), strings.TrimSpace(part)) {
						t.Errorf("%s quotes the message %q, which no source has", d, m[1])
					}
				}
			}
		}
	}
	if quoted < 20 {
		t.Errorf("%d messages are quoted, want the tables of all packages", quoted)
	}
}
