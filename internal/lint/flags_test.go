package lint

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// commandLine is what the golden help of a program says about its flags. The golden
// tests of the programs keep it equal to the real ones.
type commandLine struct {
	name     string
	commands map[string]map[string]string // command, or "", to flag to default
}

var (
	helpFlag    = regexp.MustCompile(`^  (?:-([a-z]), )?--([a-z0-9-]+)(.*)$`)
	helpDefault = regexp.MustCompile(`\(default ([^()]*)\)$`)
)

// programs reads the golden help files.
func programs(t *testing.T) []commandLine {
	t.Helper()
	var out []commandLine
	for _, f := range files(t, ".txt") {
		dir, base := path.Split(f)
		if !strings.HasPrefix(base, "help") || !strings.HasSuffix(dir, "/testdata/") || !strings.Contains(dir, "/cmd/penstock-") {
			continue
		}
		name := path.Base(path.Dir(path.Clean(dir)))
		if len(out) == 0 || out[len(out)-1].name != name {
			out = append(out, commandLine{name, map[string]map[string]string{}})
		}
		command := strings.TrimPrefix(strings.TrimSuffix(strings.TrimPrefix(base, "help"), ".txt"), "-")
		out[len(out)-1].commands[command] = flagsOf(read(t, f))
	}
	if len(out) != 4 {
		t.Fatalf("found the help of %d programs, want 4", len(out))
	}
	return out
}

// flagsOf returns the flags in a help with their defaults, "" where the help
// names none. Short names count as flags of their own.
func flagsOf(help string) map[string]string {
	flags := map[string]string{"help": "", "h": "", "version": ""}
	names, text := []string(nil), ""
	end := func() {
		def := helpDefault.FindStringSubmatch(strings.TrimSpace(text))
		for _, n := range names {
			flags[n] = ""
			if def != nil {
				flags[n] = def[1]
			}
		}
		names, text = nil, ""
	}
	for line := range strings.Lines(help) {
		line = strings.TrimSuffix(line, "\n")
		if m := helpFlag.FindStringSubmatch(line); m != nil {
			end()
			names, text = []string{m[2]}, m[3]
			if m[1] != "" {
				names = append(names, m[1])
			}
		} else if strings.HasPrefix(line, "    ") {
			text += " " + strings.TrimSpace(line)
		} else {
			end()
		}
	}
	end()
	return flags
}

// has reports whether a command of the program has the flag; the empty command
// stands for all.
func (p commandLine) has(command, flag string) bool {
	for name, flags := range p.commands {
		if _, ok := flags[flag]; ok && (command == "" || command == name || name == "") {
			return true
		}
	}
	return false
}

// foreign are flags in the documents that belong to programs of others.
var foreign = []string{"kubelet-registration-path", "local"}

var (
	programCall = regexp.MustCompile(`\b(penstock-(?:pull|snapshotter|cast|csi))\b(?: ([a-z]+))?([^|;&` + "`" + `]*)`)
	longFlag    = regexp.MustCompile(`(?:^|[ \[(])--([a-z][a-z0-9-]*)`)
	dashFlag    = regexp.MustCompile(`(?:^|[ \[(])-([a-z][a-z0-9-]+)`)
	codeFlag    = regexp.MustCompile("`--([a-z][a-z0-9-]*)")
	onlyFlag    = regexp.MustCompile(`^--?([a-z][a-z0-9-]*)([= ][^-]*)?$`)
)

// flagFaults returns the flags in a document that no program has, and the old
// spellings.
func flagFaults(text string, all []commandLine) []string {
	var out []string
	long := map[string]bool{}
	for _, p := range all {
		for _, flags := range p.commands {
			for f := range flags {
				long[f] = true
			}
		}
	}
	for i, line := range strings.Split(text, "\n") {
		fault := func(format string, args ...any) {
			out = append(out, fmt.Sprintf("line %d: ", i+1)+fmt.Sprintf(format, args...))
		}
		for _, call := range programCall.FindAllStringSubmatch(line, -1) {
			p := all[slices.IndexFunc(all, func(p commandLine) bool { return p.name == call[1] })]
			command := ""
			if _, ok := p.commands[call[2]]; ok {
				command = call[2]
			}
			for _, m := range longFlag.FindAllStringSubmatch(call[3], -1) {
				if !p.has(command, m[1]) {
					fault("%s %s has no flag --%s", p.name, command, m[1])
				}
			}
			for _, m := range dashFlag.FindAllStringSubmatch(call[3], -1) {
				if p.has(command, m[1]) {
					fault("-%s is the old spelling of --%s", m[1], m[1])
				}
			}
		}
		for _, code := range inlineCode.FindAllStringSubmatch(line, -1) {
			m := onlyFlag.FindStringSubmatch(code[1])
			switch {
			case m == nil || slices.Contains(foreign, m[1]):
			case strings.HasPrefix(code[1], "--") && !long[m[1]]:
				fault("no program has the flag --%s", m[1])
			case !strings.HasPrefix(code[1], "--") && len(m[1]) > 1 && long[m[1]]:
				fault("-%s is the old spelling of --%s", m[1], m[1])
			}
		}
	}
	return out
}

var quantity = regexp.MustCompile("^`?(-?[0-9]+(?:\\.[0-9]+)?) ?(B|KiB|MiB|GiB|TiB|KB|MB|GB|ms|s|min|m|h)?`?(?:$|[,.; (])")

// value returns a default in a common form, such as "1 m" for "60 s", or "" for
// text that is not a number with a unit.
func value(s string) string {
	m := quantity.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return ""
	}
	unit := m[2]
	if unit == "min" {
		unit = "m"
	}
	if unit == "s" && m[1] == "60" {
		return "1 m"
	}
	return m[1] + " " + unit
}

// defaultFaults returns the rows of tables with a column "default" whose default
// differs from the default in every program that has the flag of the row.
func defaultFaults(text string, all []commandLine) []string {
	var out []string
	column := -1
	for i, line := range strings.Split(text, "\n") {
		if !strings.HasPrefix(line, "|") {
			column = -1
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if c := slices.IndexFunc(cells, func(s string) bool { return strings.TrimSpace(s) == "default" }); c >= 0 {
			column = c
			continue
		}
		if column < 0 || column >= len(cells) {
			continue
		}
		for c := range column {
			flags := codeFlag.FindAllStringSubmatch(cells[c], -1)
			stated := strings.Split(cells[column], ", ")
			if len(flags) == 1 {
				stated = []string{cells[column]}
			}
			for k, m := range flags {
				actual := defaultsOf(m[1], all)
				if len(stated) != len(flags) || len(actual) == 0 {
					continue
				}
				if want := value(stated[k]); want != "" && !slices.Contains(actual, want) {
					out = append(out, fmt.Sprintf("line %d: --%s has the default %q, the programs say %q", i+1, m[1], want, actual))
				}
			}
		}
	}
	return out
}

// defaultsOf returns the defaults of a flag in all programs that state one.
func defaultsOf(flag string, all []commandLine) []string {
	found := map[string]bool{}
	for _, p := range all {
		for _, flags := range p.commands {
			if v := value(flags[flag]); v != "" {
				found[v] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// TestFlagsInDocumentsExist compares the flags and defaults that documents,
// manifests and scripts name with the programs' own.
func TestFlagsInDocumentsExist(t *testing.T) {
	t.Parallel()
	all := programs(t)
	for _, f := range files(t, ".md", ".yaml", ".yml", ".sh", ".service", ".go") {
		if strings.Contains(f, "/results/") || strings.HasPrefix(f, "docs/notes/") || f == "CHANGELOG.md" || strings.HasSuffix(f, "_test.go") {
			continue // records of earlier days, change notes that name old spellings, and tests of wrong flags
		}
		text := read(t, f)
		for _, fault := range append(flagFaults(text, all), defaultFaults(text, all)...) {
			t.Errorf("%s, %s", f, fault)
		}
	}
}

// TestFlagsInDocumentsFinds makes sure that the comparison sees faults.
func TestFlagsInDocumentsFinds(t *testing.T) {
	t.Parallel()
	all := []commandLine{
		{"penstock-pull", map[string]map[string]string{"": flagsOf("  --memory SIZE   all (default\n                  256MiB)\n  -q, --quiet     x\n"), "ztoc": flagsOf("  --out FILE  x\n")}},
		{"penstock-cast", map[string]map[string]string{"get": flagsOf("  --outage D  x (default 1m)\n"), "leader": flagsOf("  --workers N  x\n")}},
	}
	for text, want := range map[string]string{
		"penstock-pull --memory 1MiB -q x":                                    "",
		"penstock-pull ztoc --out f":                                          "",
		"penstock-pull prefetch --out f":                                      "",
		"penstock-pull ztoc --in f":                                           "penstock-pull ztoc has no flag --in",
		"`penstock-cast get --workers 3`":                                     "penstock-cast get has no flag --workers",
		"run `penstock-cast leader -workers 3`":                               "-workers is the old spelling",
		"`penstock-pull` and others --frobnicate":                             "",
		"with `--frobnicate` it":                                              "no program has the flag --frobnicate",
		"with `-memory`":                                                      "-memory is the old spelling",
		"with `-q`":                                                           "",
		"| a | default |\n|--|--|\n| `--memory` | 256 MiB |":                  "",
		"| a | default |\n|--|--|\n| `--memory` | 256 MiB, or half |":         "",
		"| a | default |\n|--|--|\n| `--memory` | 64 MiB |":                   `--memory has the default "64 MiB"`,
		"| a | default |\n|--|--|\n| `X`; `--outage` of both | 60 s |":        "",
		"| a | default |\n|--|--|\n| `X`; `--outage` of both | 2 min |":       `--outage has the default "2 m"`,
		"| a | default |\n|--|--|\n| `--outage`, `--memory` | 60 s, 64 MiB |": `--memory has the default "64 MiB"`,
		"| a | default | b |\n|--|--|--|\n| `X` | 7 s | as `--outage` does |": "",
	} {
		got := strings.Join(append(flagFaults(text, all), defaultFaults(text, all)...), "\n")
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
