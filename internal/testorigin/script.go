package testorigin

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/bytesize"
)

// ParseFaults reads a fault script: one rule a line (or between semicolons), #
// starts a comment.
//
//	[OP] [key=GLOB] [per=range] [nth=N] [every=N] [first=N] [after=N] [p=SHARE] [max=N] => ACTION [param=value ...]
//
// Params are at=BYTES|header|random, for=DURATION, bytes=SIZE, rate=SIZE,
// code=STATUS, error=CODE, retry-after=DURATION, retry-date=DURATION,
// file=PATH, header=TEXT. Sizes have the grammar of internal/bytesize, such as
// 1MiB, and a value with spaces is quoted as in Go. Examples:
//
//	GetObject p=0.1 => status code=503 retry-after=1s
//	GetObject key=weights/* every=100 => stall for=5s at=1MiB
//	GetBlob nth=2 => expire
func ParseFaults(script string) ([]Fault, error) {
	var out []Fault
	lines, err := splitScript(script)
	if err != nil {
		return nil, err
	}
	for _, fields := range lines {
		f, err := parseFault(fields)
		if err != nil {
			return nil, fmt.Errorf("testorigin: fault rule %q: %w", strings.Join(fields, " "), err)
		}
		if err := f.Validate(); err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// splitScript cuts a script into rules and each rule into fields, and respects
// quotes and comments. Quoted text stays quoted.
func splitScript(s string) ([][]string, error) {
	var lines [][]string
	var fields []string
	start := -1 // of the field being read
	endField := func(i int) {
		if start >= 0 {
			fields = append(fields, s[start:i])
			start = -1
		}
	}
	endLine := func(i int) {
		endField(i)
		if len(fields) > 0 {
			lines = append(lines, fields)
			fields = nil
		}
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\n' || c == ';':
			endLine(i)
		case c == ' ' || c == '\t' || c == '\r':
			endField(i)
		case c == '#' && start < 0:
			for i+1 < len(s) && s[i+1] != '\n' {
				i++
			}
		case c == '"':
			q, err := strconv.QuotedPrefix(s[i:])
			if err != nil {
				return nil, fmt.Errorf("testorigin: fault script: quote at byte %d is not closed on its line", i)
			}
			if start < 0 {
				start = i
			}
			i += len(q) - 1
		case start < 0:
			start = i
		}
	}
	endLine(len(s))
	return lines, nil
}

func parseFault(fields []string) (Fault, error) {
	var f Fault
	arrow := false
	for i, field := range fields {
		name, value, isPair := strings.Cut(field, "=")
		switch {
		case field == "=>":
			if arrow {
				return f, fmt.Errorf("a second =>; one rule has one action, put the other on a line of its own")
			}
			arrow = true
			continue
		case arrow && f.Action == "":
			f.Action = Action(field)
			continue
		case !isPair && i == 0:
			f.Op = field
			continue
		case !isPair:
			return f, fmt.Errorf("%q is not name=value", field)
		}
		if strings.HasPrefix(value, `"`) {
			v, err := strconv.Unquote(value)
			if err != nil {
				return f, fmt.Errorf("%s: %s is not a quoted string", name, value)
			}
			value = v
		}
		if err := f.set(arrow, name, value); err != nil {
			return f, err
		}
	}
	if !arrow {
		return f, fmt.Errorf("no action; write => and one, for example => status code=503")
	}
	return f, nil
}

// set sets one condition (before the arrow) or one param (after it).
func (f *Fault) set(param bool, name, value string) (err error) {
	number := func(p *int) {
		n, e := strconv.ParseInt(value, 10, 32)
		*p, err = int(n), e
	}
	if !param {
		switch name {
		case "key":
			f.Key = value
		case "per":
			f.PerRange = true
			if value != "range" {
				err = fmt.Errorf("only per=range is known")
			}
		case "nth":
			number(&f.Nth)
		case "every":
			number(&f.Every)
		case "first":
			number(&f.First)
		case "after":
			number(&f.After)
		case "max":
			number(&f.Max)
		case "p":
			f.Probability, err = strconv.ParseFloat(value, 64)
		default:
			err = fmt.Errorf("unknown condition; use key, per, nth, every, first, after, p or max")
		}
	} else {
		switch name {
		case "at":
			f.At, err = parseAt(value)
		case "for":
			f.For, err = time.ParseDuration(value)
		case "bytes":
			f.Bytes, err = bytesize.Parse(value)
		case "rate":
			f.Rate, err = bytesize.Parse(value)
		case "code":
			number(&f.Status)
		case "error":
			f.Error = value
		case "retry-after", "retry-date":
			f.RetryDate = name == "retry-date"
			f.RetryAfter, err = time.ParseDuration(value)
		case "file":
			f.File = value
		case "header":
			f.Header = value
		default:
			err = fmt.Errorf("unknown param; use at, for, bytes, rate, code, error, retry-after, retry-date, file or header")
		}
	}
	if err != nil {
		return fmt.Errorf("%s=%s: %w", name, value, err)
	}
	return nil
}

func parseAt(s string) (int64, error) {
	switch s {
	case "header":
		return AtHeader, nil
	case "random":
		return AtRandom, nil
	}
	return bytesize.Parse(s)
}

// String returns the rule in the form that ParseFaults reads.
func (f Fault) String() string {
	var b strings.Builder
	put := func(name, value string) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(name)
		b.WriteByte('=')
		if value == "" || strings.ContainsAny(value, " \t\r\n;\"#") || !isPrint(value) {
			value = strconv.Quote(value)
		}
		b.WriteString(value)
	}
	num := func(name string, n int) {
		if n != 0 {
			put(name, strconv.Itoa(n))
		}
	}
	dur := func(name string, d time.Duration) {
		if d != 0 {
			put(name, d.String())
		}
	}
	b.WriteString(f.Op)
	if f.Key != "" {
		put("key", f.Key)
	}
	if f.PerRange {
		put("per", "range")
	}
	num("nth", f.Nth)
	num("every", f.Every)
	num("first", f.First)
	num("after", f.After)
	if f.Probability != 0 {
		put("p", strconv.FormatFloat(f.Probability, 'g', -1, 64))
	}
	num("max", f.Max)
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	b.WriteString("=> ")
	b.WriteString(string(f.Action))
	switch {
	case f.At == AtHeader:
		put("at", "header")
	case f.At == AtRandom:
		put("at", "random")
	case f.At != 0:
		put("at", bytesize.Format(f.At))
	}
	dur("for", f.For)
	if f.Bytes != 0 {
		put("bytes", bytesize.Format(f.Bytes))
	}
	if f.Rate != 0 {
		put("rate", bytesize.Format(f.Rate))
	}
	num("code", f.Status)
	if f.Error != "" {
		put("error", f.Error)
	}
	if f.RetryDate {
		put("retry-date", f.RetryAfter.String())
	} else {
		dur("retry-after", f.RetryAfter)
	}
	if f.File != "" {
		put("file", f.File)
	}
	if f.Header != "" {
		put("header", f.Header)
	}
	return b.String()
}

func isPrint(s string) bool {
	for _, r := range s {
		if r == '\ufffd' || !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

// headerName returns the name in "Name: value", or "" if it is not valid.
func headerName(s string) string {
	name, _, ok := strings.Cut(s, ":")
	if !ok || name == "" || strings.ContainsAny(name, " \t\r\n") || strings.ContainsAny(s, "\r\n") {
		return ""
	}
	return http.CanonicalHeaderKey(name)
}
