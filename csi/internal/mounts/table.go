package mounts

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Mount is one line of mountinfo (proc_pid_mountinfo(5)), paths unescaped.
type Mount struct {
	ID, Parent int
	Device     string // "major:minor"; equal for all mounts of one file system
	Root       string // the directory of the file system that is mounted
	Point      string // where
	Options    string // of the mount, comma-separated
	FSType     string // "ext4", "fuse.penstock", ...
	Source     string // device, or the name that a FUSE server gives itself
	Super      string // options of the file system, comma-separated
}

// Table is the mount table: later mounts on one point cover earlier ones.
type Table []Mount

// Read reads the table of this process.
func Read() (Table, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	defer f.Close()
	return Parse(f)
}

// Parse reads a table in the format of mountinfo.
func Parse(r io.Reader) (Table, error) {
	var table Table
	lines := bufio.NewScanner(r)
	// The kernel escapes paths to at most 4 bytes each; overlay options hold many paths on one line.
	lines.Buffer(make([]byte, 0, 4<<10), 1<<20)
	for lines.Scan() {
		m, err := parseLine(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("mount table line %d: %w", len(table)+1, err)
		}
		table = append(table, m)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	return table, nil
}

// parseLine parses "id parent major:minor root point options [optional...] - fstype source super".
func parseLine(line string) (Mount, error) {
	left, right, found := strings.Cut(line, " - ")
	if !found {
		return Mount{}, fmt.Errorf("no separator in %q", line)
	}
	l, r := strings.Split(left, " "), strings.Split(right, " ")
	if len(l) < 6 || len(r) < 2 {
		return Mount{}, fmt.Errorf("too few fields in %q", line)
	}
	id, err := strconv.Atoi(l[0])
	if err != nil {
		return Mount{}, fmt.Errorf("mount id in %q: %w", line, err)
	}
	parent, err := strconv.Atoi(l[1])
	if err != nil {
		return Mount{}, fmt.Errorf("parent id in %q: %w", line, err)
	}
	m := Mount{
		ID: id, Parent: parent, Device: l[2], Root: unescape(l[3]), Point: unescape(l[4]), Options: l[5],
		FSType: unescape(r[0]), Source: unescape(r[1]),
	}
	if len(r) > 2 {
		m.Super = r[2]
	}
	return m, nil
}

// unescape replaces \ooo by the byte with that octal value; the kernel escapes space, tab, newline, # and backslash so.
// Anything else after a backslash stays as it is.
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b bytes.Buffer
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// At returns the topmost mount whose point is path.
func (t Table) At(path string) (Mount, bool) {
	for i := len(t) - 1; i >= 0; i-- {
		if t[i].Point == path {
			return t[i], true
		}
	}
	return Mount{}, false
}

// Below returns the mounts of a file-system type whose points are dir or inside it, the covering ones first.
func (t Table) Below(dir, fsType string) []Mount {
	var found []Mount
	inside := strings.TrimSuffix(dir, "/") + "/"
	for i := len(t) - 1; i >= 0; i-- {
		if m := t[i]; m.FSType == fsType && (m.Point == dir || strings.HasPrefix(m.Point, inside)) {
			found = append(found, m)
		}
	}
	return found
}
