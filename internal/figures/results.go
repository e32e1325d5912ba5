package figures

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// result is the part of a recorded result that the documents show. The
// benchmarks write it; see benchmarks/internal/bench.
type result struct {
	Area    string `json:"area"`
	Command string `json:"command"`
	Machine struct {
		CPU    string    `json:"cpu"`
		Cores  int       `json:"cores"`
		Commit string    `json:"commit"`
		Date   time.Time `json:"date"`
	} `json:"machine"`
	Tables   []table   `json:"tables"`
	Verdicts []verdict `json:"verdicts"`

	dir string // of the result, from the root, with slashes
}

type table struct {
	Title   string     `json:"title"`
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
}

type verdict struct {
	Claim  string `json:"claim"`
	Target string `json:"target"`
	Got    string `json:"got"`
	OK     bool   `json:"ok"`
}

// area is what the results of one area say together.
type area struct {
	results  []result // newest first
	tables   []source[table]
	verdicts []source[verdict]
}

// source is a value and the result that it comes from.
type source[T any] struct {
	value T
	from  *result
}

// load reads all results of an area below root.
func load(root, name string) (area, error) {
	names, err := filepath.Glob(filepath.Join(root, "benchmarks", filepath.FromSlash(name), "results", "*", "result.json"))
	if err != nil {
		return area{}, err
	}
	if len(names) == 0 {
		return area{}, fmt.Errorf("benchmarks/%s/results has no result", name)
	}
	var a area
	for _, n := range names {
		raw, err := os.ReadFile(n) //nolint:gosec // G703: a glob of the tree that the caller names
		if err != nil {
			return area{}, err
		}
		var r result
		if err := json.Unmarshal(raw, &r); err != nil {
			return area{}, fmt.Errorf("%s: %w", n, err)
		}
		r.dir = path.Join("benchmarks", name, "results", filepath.Base(filepath.Dir(n)))
		a.results = append(a.results, r)
	}
	slices.SortFunc(a.results, func(x, y result) int { return y.Machine.Date.Compare(x.Machine.Date) })
	for i := range a.results {
		a.add(&a.results[i])
	}
	return a, nil
}

// add takes the tables and targets of r that no newer result has.
func (a *area) add(r *result) {
	for _, t := range r.Tables {
		if !slices.ContainsFunc(a.tables, func(s source[table]) bool { return s.value.Title == t.Title }) {
			a.tables = append(a.tables, source[table]{t, r})
		}
	}
	for _, v := range r.Verdicts {
		if !slices.ContainsFunc(a.verdicts, func(s source[verdict]) bool { return s.value.Claim == v.Claim }) {
			a.verdicts = append(a.verdicts, source[verdict]{v, r})
		}
	}
}

// verdict returns the measured figure of a claim, such as "0.44 x", rounded to
// two digits.
func (a *area) verdict(claim string) (string, error) {
	for _, s := range a.verdicts {
		if s.value.Claim != claim {
			continue
		}
		number, unit, _ := strings.Cut(s.value.Got, " ")
		f, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return "", fmt.Errorf("%s: %q is not a number and a unit", claim, s.value.Got)
		}
		return strings.TrimSpace(fmt.Sprintf("%.2f %s", f, unit)), nil
	}
	return "", fmt.Errorf("no result has the target %q", claim)
}

// cell returns a cell without its range: "2.35 (2.28-2.42)" is "2.35".
func (a *area) cell(title, row, column string) (string, error) {
	for _, s := range a.tables {
		col := slices.Index(s.value.Columns, column)
		if s.value.Title != title || col < 0 {
			continue
		}
		for _, r := range s.value.Rows {
			if r[0] == row && col < len(r) {
				median, _, _ := strings.Cut(r[col], " ")
				return median, nil
			}
		}
	}
	return "", fmt.Errorf("no result has the row %q of %q with a column %q", row, title, column)
}
