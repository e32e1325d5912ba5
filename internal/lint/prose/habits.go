package prose

import (
	"math"
	"regexp"
	"strings"
)

// A Habit is a form of English that is hard to read where it is frequent.
type Habit struct {
	// Name stands for the habit in ceilings and findings.
	Name string
	// Rate is the number of occurrences allowed in 1,000 lines of prose.
	Rate float64
	// Instead says how to write it.
	Instead string

	pattern *regexp.Regexp
}

// Habits are all habits that are counted, in a fixed order.
//
// The expressions began as the ones of a review and became narrower where they
// met good English: "the caller, who holds the lock" has a
// subject, and "what is wrong" answers a question.
var Habits = []Habit{
	{
		"headless-what", 3, "name the thing: \"the earlier bytes\", not \"what came before\"",
		regexp.MustCompile(`\b[Ww]hat (?:is|was|were|are|came|comes|has|have|had|it|they|we|follows|the \w+ \w+s)\b`),
	},
	{
		"somebody", 0, "name the reader, the caller, the process",
		regexp.MustCompile(`\b(?i:nobody|somebody|anybody|whoever)\b`),
	},
	{
		"goes-on", 0, "continue, resume",
		regexp.MustCompile(`\b(?:goes|gone|go|went) on\b`),
	},
	{
		"that-of", 1, "repeat the noun, or use a possessive",
		regexp.MustCompile(`\b(?i:that|those) of\b`),
	},
	{
		"is-no", 7.6, "\"is not a X\", \"there is no X\"",
		regexp.MustCompile(`\b(?:is|are) (?:no [a-z]+\b|none\b)`),
	},
	{
		"nil-fragment", 0, "\"or nil if ...\"",
		regexp.MustCompile(`; (?:nil|0|""|false|true|-1|zero|negative): `),
	},
	{
		"beside", 0, "with, alongside, next to, in addition to",
		regexp.MustCompile(`\b(?i:beside)\b`),
	},
	{
		"bare-who", 0, "\"a caller that\", \"the goroutine that\"",
		regexp.MustCompile(`(?:^|[.;:] )[Ww]ho \w+|\b(?:for|of|to|from|by|wakes|tells|than) who\b`),
	},
	{
		"begun-anew", 0.6, "restart, refetch, from the start, again",
		regexp.MustCompile(`\b(?:begu[n]|ane[w]|(?:from )?(?:the|a) begin)\b`),
	},
	{
		"is-told", 0, "receives, is notified, reports",
		regexp.MustCompile(`\b(?:is|are|be|was|were|been) told\b`),
	},
}

// noLonger matches the uses of "is no" that are plain English.
var noLonger = regexp.MustCompile(`(?:is|are) no (?:longer|more)\b`)

// Limit returns how many occurrences the habit's rate allows in that many
// lines of prose. A habit with a rate above zero may occur once in the smallest
// text.
func (h *Habit) Limit(lines int) int {
	return int(math.Ceil(h.Rate * float64(lines) / 1000))
}

// find returns the offsets in text at which the habit occurs.
func (h *Habit) find(text string) []int {
	var at []int
	for _, m := range h.pattern.FindAllStringIndex(text, -1) {
		if h.Name == "is-no" && (noLonger.MatchString(text[m[0]:m[1]]) || strings.HasSuffix(text[:m[0]], "here ")) {
			continue // "is no longer", "there is no"
		}
		at = append(at, m[0])
	}
	return at
}
