package commits

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxSubject = 72
	maxBody    = 100 // of a line; quoted output may be longer
)

// subject is "area: change" or "area, area: change".
var subject = regexp.MustCompile(`^[a-z0-9][a-z0-9_./*{},-]*(?:,? [a-z0-9][a-z0-9_./*-]*){0,3}: (\S+)`)

// notVerbs are first words that cannot begin an imperative sentence.
var notVerbs = strings.Fields(`a an the no not it its this that these those they there all every each some any many both
	only also one two three more fewer less new old what who when where why how if in on at of to for from with without and or
	is are was were be been has have had does did can could may might must should will would`)

// endInS are verbs that end in s without being in the third person.
var endInS = strings.Fields(`pass process address focus compress express discuss access cross miss press guess dismiss bypass
	canvass bias harness witness release`)

// endInEd are verbs that end in ed or ing without being participles.
var endInEd = strings.Fields(`need feed seed embed speed shed bring string ring ping heed proceed exceed succeed sing`)

// Check returns the rules that a message breaks. Merges and reverts that git
// words itself are not checked.
func Check(message string) []string {
	first, rest, _ := strings.Cut(strings.TrimRight(message, "\n"), "\n")
	if strings.HasPrefix(first, "Merge ") || strings.HasPrefix(first, "Revert ") {
		return nil
	}
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if n := utf8.RuneCountInString(first); n > maxSubject {
		add("the subject has %d characters, at most %d: %q", n, maxSubject, first)
	}
	if strings.Contains(first, ";") {
		add("the subject names several changes, make a commit of each: %q", first)
	}
	if strings.HasSuffix(first, ".") {
		add("the subject ends in a full stop: %q", first)
	}
	m := subject.FindStringSubmatch(first)
	if m == nil {
		add("the subject is not \"area: change\", as in \"soci: redact credentials\": %q", first)
	} else if !imperative(m[1]) {
		add("the subject is not imperative: it begins with %q, not with a verb as in \"add\" or \"remove\": %q", m[1], first)
	}
	if rest != "" && !strings.HasPrefix(rest, "\n") {
		add("an empty line has to follow the subject %q", first)
	}
	for line := range strings.Lines(rest) {
		if s := strings.TrimRight(line, "\n"); utf8.RuneCountInString(s) > maxBody && !strings.HasPrefix(s, " ") && !strings.Contains(s, "://") {
			add("a line of the body has more than %d characters: %q", maxBody, s)
		}
	}
	return problems
}

func imperative(word string) bool {
	w := strings.ToLower(strings.TrimRight(word, ",:"))
	switch {
	case slices.Contains(notVerbs, w):
		return false
	case strings.HasSuffix(w, "s"):
		return slices.Contains(endInS, w)
	case strings.HasSuffix(w, "ed"), strings.HasSuffix(w, "ing"):
		return slices.Contains(endInEd, w)
	}
	return true
}
