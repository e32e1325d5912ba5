package lint

import (
	"regexp"
	"strings"
	"testing"
)

// quirkPage has the table of differences between stores, quirkCode the switches
// of the test origin.
const (
	quirkPage = "docs/s3-quirks.md"
	quirkCode = "internal/testorigin/quirks.go"
)

var (
	quirkSwitch = regexp.MustCompile(`\{name: "([a-z-]+)"`)
	rowTest     = regexp.MustCompile("`(Test|Fuzz)[A-Z]\\w*`")
)

// TestQuirkTable keeps the page complete: each row of its tables names a test
// (TestTestsInDocumentsExist checks that it exists), and each switch of the test
// origin has a row.
func TestQuirkTable(t *testing.T) {
	t.Parallel()
	page := read(t, quirkPage)
	rows := 0
	for line := range strings.Lines(page) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 4 || strings.HasPrefix(cells[1], "---") {
			continue
		}
		last := strings.TrimSpace(cells[len(cells)-2])
		if last == "test" {
			continue
		}
		if rows++; !rowTest.MatchString(last) {
			t.Errorf("%s: no test proves %q", quirkPage, strings.TrimSpace(cells[1]))
		}
	}
	switches := quirkSwitch.FindAllStringSubmatch(read(t, quirkCode), -1)
	if rows < 20 || len(switches) < 15 {
		t.Fatalf("%d rows and %d switches were found", rows, len(switches))
	}
	for _, m := range switches {
		if !strings.Contains(page, "`"+m[1]+"`") {
			t.Errorf("%s has no row for the switch %s of %s", quirkPage, m[1], quirkCode)
		}
	}
	for _, action := range []string{"page", "empty", "stall"} {
		if !strings.Contains(page, "fault `"+action+"`") {
			t.Errorf("%s has no row for the fault %s", quirkPage, action)
		}
	}
}
