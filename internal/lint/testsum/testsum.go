package testsum

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Status is how a test or a stage ended.
type Status int

// The order is the order of merging: a stage that ran a test outranks one that
// skipped it, and a failure in any stage outranks both.
const (
	Skip     Status = iota
	Pass            // in every stage that ran it
	Unsteady        // failed once and passed when it was run again
	Fail
)

// String returns the word for the status.
func (s Status) String() string {
	switch s {
	case Skip:
		return "skip"
	case Pass:
		return "pass"
	case Unsteady:
		return "unsteady"
	case Fail:
		return "fail"
	}
	return fmt.Sprintf("status %d", int(s))
}

// Outcome is the result of one test or stage after all stages.
type Outcome struct {
	Package string // import path; "" for a stage
	Test    string // name with subtests ("TestX/case"); "" for a package as a whole
	Status  Status
	Stage   string // the stage that decided Status
	Reason  string // why it was skipped
	Output  string // what a failed test printed
}

// Counts is the closing line of a run.
type Counts struct{ Passed, Failed, Skipped, Unsteady int }

// String returns the line that CI systems look for. Unsteady tests are named
// only if there are any.
func (c Counts) String() string {
	s := fmt.Sprintf("%d passed, %d failed, %d skipped", c.Passed, c.Failed, c.Skipped)
	if c.Unsteady > 0 {
		s += fmt.Sprintf(", %d unsteady", c.Unsteady)
	}
	return s
}

// Run is one test run of several stages. The zero value is an empty run.
type Run struct {
	outcomes map[key]*Outcome
}

type key struct{ pkg, test string }

// event is a line of go test -json (see go doc test2json); Action "build-output"
// carries ImportPath in the place of Package.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
}

// maxLine bounds a line of the log: a test may print a long line, but not
// without end.
const maxLine = 16 << 20 // bytes

// AddStage records a stage that is not a go test run, such as vet.
func (r *Run) AddStage(name string, s Status, reason string) {
	r.merge(Outcome{Test: name, Status: s, Stage: name, Reason: reason})
}

// AddStages records stages of a list: a line for each, "name TAB pass|fail|skip TAB reason".
func (r *Run) AddStages(list string) {
	for line := range strings.Lines(list) {
		col := append(strings.Split(strings.TrimSuffix(line, "\n"), "\t"), "", "")
		s := Fail
		switch col[1] {
		case "pass":
			s = Pass
		case "skip":
			s = Skip
		}
		r.AddStage(col[0], s, col[2])
	}
}

// AddTests records the output of one go test -json run. It fails only when in
// cannot be read; lines that are not events are kept as the output of the stage.
func (r *Run) AddTests(stage string, in io.Reader) error {
	output := map[key]*strings.Builder{}
	var build strings.Builder // compiler errors come before the package fails
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, maxLine)
	for sc.Scan() {
		var ev event
		if err := json.Unmarshal(sc.Bytes(), &ev); err != nil {
			fmt.Fprintln(&build, sc.Text())
			continue
		}
		k := key{ev.Package, ev.Test}
		switch ev.Action {
		case "output":
			b := output[k]
			if b == nil {
				b = new(strings.Builder)
				output[k] = b
			}
			b.WriteString(ev.Output)
		case "build-output":
			build.WriteString(ev.Output)
		case "pass", "fail", "skip":
			r.addEnd(stage, ev, output[k], &build)
			delete(output, k)
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("test log of stage %q: %w", stage, err)
	}
	if ended := r.endedIn(stage); !ended && build.Len() > 0 {
		r.merge(Outcome{Test: stage, Status: Fail, Stage: stage, Output: build.String()})
	}
	for k := range output { // a test that began and never ended: the process died
		if k.test != "" {
			r.merge(Outcome{Package: k.pkg, Test: k.test, Status: Fail, Stage: stage, Output: output[k].String()})
		}
	}
	return nil
}

func (r *Run) addEnd(stage string, ev event, out, build *strings.Builder) {
	o := Outcome{Package: ev.Package, Test: ev.Test, Stage: stage}
	text := ""
	if out != nil {
		text = out.String()
	}
	switch ev.Action {
	case "pass":
		o.Status = Pass
	case "skip":
		o.Status = Skip
		o.Reason = reason(text)
		if ev.Test == "" {
			return // "no test files"
		}
	case "fail":
		o.Status = Fail
		o.Output = text
		if ev.Test == "" {
			o.Output = build.String() + text
			build.Reset()
		}
	}
	if ev.Test == "" && o.Status != Fail {
		return // a package does not count as a test
	}
	r.merge(o)
}

func (r *Run) endedIn(stage string) bool {
	for _, o := range r.outcomes {
		if o.Stage == stage {
			return true
		}
	}
	return false
}

func (r *Run) merge(o Outcome) {
	if r.outcomes == nil {
		r.outcomes = map[key]*Outcome{}
	}
	k := key{o.Package, o.Test}
	old := r.outcomes[k]
	switch {
	case old == nil || o.Status > old.Status:
		r.outcomes[k] = &o
	case o.Status == Skip && old.Status == Skip && strings.Contains(old.Reason, "short mode"):
		// The reason of the full stage is the one that remains true.
		r.outcomes[k] = &o
	}
}

// skipLine is what t.Skip prints: "    file_test.go:12: reason".
var skipLine = regexp.MustCompile(`(?m)^\s+\S+\.go:\d+: (.+)$`)

func reason(output string) string {
	all := skipLine.FindAllStringSubmatch(output, -1)
	if len(all) == 0 {
		return "no reason given"
	}
	return all[len(all)-1][1]
}

// leaves returns the outcomes that count, in order of package and test.
func (r *Run) leaves() []*Outcome {
	parents := map[key]bool{}     // tests with a subtest
	failedBelow := map[key]bool{} // tests or packages with a failed test below
	for k, o := range r.outcomes {
		if k.pkg == "" {
			continue // a slash in the name of a stage has no meaning
		}
		for name := k.test; ; {
			i := strings.LastIndexByte(name, '/')
			if i < 0 {
				break
			}
			name = name[:i]
			parents[key{k.pkg, name}] = true
			if o.Status == Fail || o.Status == Unsteady {
				failedBelow[key{k.pkg, name}] = true
			}
		}
		if o.Status == Fail && k.test != "" {
			failedBelow[key{k.pkg, ""}] = true
		}
	}
	var out []*Outcome
	for k, o := range r.outcomes {
		bad := o.Status == Fail || o.Status == Unsteady
		if parents[k] && !bad || bad && failedBelow[k] {
			continue
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b *Outcome) int {
		return cmp.Or(cmp.Compare(a.Package, b.Package), cmp.Compare(a.Test, b.Test))
	})
	return out
}

// Counts adds up the leaves of the run.
func (r *Run) Counts() Counts {
	var c Counts
	for _, o := range r.leaves() {
		switch o.Status {
		case Pass:
			c.Passed++
		case Fail:
			c.Failed++
		case Skip:
			c.Skipped++
		case Unsteady:
			c.Unsteady++
		}
	}
	return c
}

// Failures returns the failed leaves.
func (r *Run) Failures() []Outcome { return r.with(Fail) }

// Skips returns the leaves that no stage ran.
func (r *Run) Skips() []Outcome { return r.with(Skip) }

func (r *Run) with(s Status) []Outcome {
	var out []Outcome
	for _, o := range r.leaves() {
		if o.Status == s {
			out = append(out, *o)
		}
	}
	return out
}

// maxAgain is how many tests of a stage may be run again: more failures have a
// common cause, which a second run would only hide.
const maxAgain = 3

// never matches the output of failures that no second run can excuse.
var never = regexp.MustCompile(`DATA RACE|panic: |fatal error: |goroutines? leak|found unexpected goroutines`)

// Again returns the failed tests, without subtests, that are worth a second
// run: at most three of a stage, and none if a data race, a panic, a leak or a
// build ended one of them.
func (r *Run) Again() []Outcome {
	seen := map[key]bool{}
	var out []Outcome
	for _, o := range r.outcomes {
		if o.Status == Fail && never.MatchString(o.Output) {
			return nil
		}
	}
	for _, o := range r.Failures() {
		if o.Package == "" || o.Test == "" {
			return nil
		}
		o.Test, _, _ = strings.Cut(o.Test, "/")
		if k := (key{o.Package, o.Test}); !seen[k] {
			seen[k] = true
			out = append(out, o)
		}
	}
	if len(out) > maxAgain {
		return nil
	}
	return out
}

// MarkUnsteady turns the failure of a test, with its subtests, into Unsteady,
// because it passed when it was run again.
func (r *Run) MarkUnsteady(pkg, test string) {
	whole := true
	for k, o := range r.outcomes {
		if k.pkg != pkg || o.Status != Fail || k.test == "" {
			continue
		}
		if top, _, _ := strings.Cut(k.test, "/"); top == test {
			o.Status = Unsteady
		} else {
			whole = false
		}
	}
	if whole {
		delete(r.outcomes, key{pkg, ""})
	}
}

// MarkAllUnsteady marks the tests of a list, and returns them. The list has a
// line for each, "package TAB test TAB stage".
func (r *Run) MarkAllUnsteady(list string) []Outcome {
	var out []Outcome
	for line := range strings.Lines(list) {
		col := append(strings.Split(strings.TrimSpace(line), "\t"), "", "")
		r.MarkUnsteady(col[0], col[1])
		out = append(out, Outcome{Package: col[0], Test: col[1], Status: Unsteady, Stage: col[2]})
	}
	return out
}

// Unjustified turns every skip that machine m gives no reason for into a
// failure, and returns them.
func (r *Run) Unjustified(m Machine) []Outcome {
	var out []Outcome
	for _, k := range slices.SortedFunc(maps.Keys(r.outcomes), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.test, b.test))
	}) {
		o := r.outcomes[k]
		if o.Status != Skip {
			continue
		}
		if why := m.Contradicts(o.Reason); why != "" {
			o.Status = Fail
			o.Output = fmt.Sprintf("skipped although %s: %q\n", why, o.Reason)
			out = append(out, *o)
		}
	}
	return out
}
