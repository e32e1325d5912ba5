package prose

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Ceilings are the counts that folders above a rate still have, by folder and
// habit.
type Ceilings map[string]map[string]int

// ReadCeilings reads lines "FOLDER HABIT COUNT". Empty lines and lines that
// start with # are comments.
func ReadCeilings(r io.Reader) (Ceilings, error) {
	c := Ceilings{}
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, fmt.Errorf("prose: line %d of the ceilings: %q, want FOLDER HABIT COUNT", n, line)
		}
		count, err := strconv.Atoi(f[2])
		if err != nil || count < 1 {
			return nil, fmt.Errorf("prose: line %d of the ceilings: count %q, want a number above 0", n, f[2])
		}
		if !slices.ContainsFunc(Habits, func(h Habit) bool { return h.Name == f[1] }) {
			return nil, fmt.Errorf("prose: line %d of the ceilings: unknown habit %q", n, f[1])
		}
		if c[f[0]] == nil {
			c[f[0]] = map[string]int{}
		}
		if _, twice := c[f[0]][f[1]]; twice {
			return nil, fmt.Errorf("prose: line %d of the ceilings: %s %s stands twice", n, f[0], f[1])
		}
		c[f[0]][f[1]] = count
	}
	return c, sc.Err()
}

// WriteTo writes the ceilings in the form that ReadCeilings reads, sorted.
func (c Ceilings) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	dirs := make([]string, 0, len(c))
	for dir := range c {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	for _, dir := range dirs {
		for _, h := range Habits {
			if n := c[dir][h.Name]; n > 0 {
				fmt.Fprintf(&b, "%s %s %d\n", dir, h.Name, n)
			}
		}
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// Raised lists the entries of c that are higher than in old, or that old does
// not have.
func (c Ceilings) Raised(old Ceilings) []string {
	var out []string
	for dir, habits := range c {
		for habit, n := range habits {
			if was := old[dir][habit]; n > was {
				out = append(out, fmt.Sprintf("%s %s: %d, was %d", dir, habit, n, was))
			}
		}
	}
	slices.Sort(out)
	return out
}

// Needed returns the ceilings that the units need: their counts where those are
// above the limit of the rate.
func Needed(units []*Unit) Ceilings {
	c := Ceilings{}
	for _, u := range units {
		for i := range Habits {
			h := &Habits[i]
			if n := u.Count(h.Name); n > h.Limit(u.Lines) {
				if c[u.Dir] == nil {
					c[u.Dir] = map[string]int{}
				}
				c[u.Dir][h.Name] = n
			}
		}
	}
	return c
}

// A Violation is a folder that has more of a habit than it may, or a ceiling
// that is higher than its folder needs.
type Violation struct {
	Dir, Habit    string
	Count, Limit  int
	Findings      []Finding // of the folder and habit; nil for a ceiling that is too high
	needsNoLonger bool
}

func (v Violation) String() string {
	if v.needsNoLonger {
		return fmt.Sprintf("%s has %d of the habit %s, its ceiling is %d: lower the ceiling with go run ./internal/lint/cmd/prose -lower", v.Dir, v.Count, v.Habit, v.Limit)
	}
	i := slices.IndexFunc(Habits, func(h Habit) bool { return h.Name == v.Habit })
	return fmt.Sprintf("%s has %d of the habit %s, %d allowed: write %s", v.Dir, v.Count, v.Habit, v.Limit, Habits[i].Instead)
}

// Check compares the units with the rates and the ceilings.
func Check(units []*Unit, ceilings Ceilings) []Violation {
	var out []Violation
	seen := map[string]bool{}
	for _, u := range units {
		seen[u.Dir] = true
		for i := range Habits {
			h := &Habits[i]
			n, limit := u.Count(h.Name), h.Limit(u.Lines)
			ceiling, listed := ceilings[u.Dir][h.Name]
			if listed {
				limit = max(limit, ceiling)
			}
			switch {
			case n > limit:
				v := Violation{Dir: u.Dir, Habit: h.Name, Count: n, Limit: limit}
				for _, f := range u.Findings {
					if f.Habit == h.Name {
						v.Findings = append(v.Findings, f)
					}
				}
				out = append(out, v)
			case listed && n < ceiling:
				out = append(out, Violation{Dir: u.Dir, Habit: h.Name, Count: n, Limit: ceiling, needsNoLonger: true})
			}
		}
	}
	for dir, habits := range ceilings {
		if !seen[dir] {
			for habit, n := range habits {
				out = append(out, Violation{Dir: dir, Habit: habit, Limit: n, needsNoLonger: true})
			}
		}
	}
	return out
}
