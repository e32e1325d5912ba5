package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

var errFault = errors.New("injected fault")

// faulty returns calls that record their order and fail at the call named.
func faulty(at string) (*calls, *[]string) {
	log := new([]string)
	step := func(name string, do func() error) error {
		*log = append(*log, name)
		if name == at {
			return errFault
		}
		return do()
	}
	return &calls{
		sync:    func(f *os.File) error { return step("sync", f.Sync) },
		close:   func(f *os.File) error { return errors.Join(f.Close(), step("close", func() error { return nil })) },
		rename:  func(from, to string) error { return step("rename", func() error { return os.Rename(from, to) }) },
		syncDir: func(dir string) error { return step("syncdir", func() error { return SyncDir(dir) }) },
	}, log
}

// content returns a file's content and the names of all files in its directory.
func content(t *testing.T, name string) (string, []string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return string(b), names
}

func TestReplaceOrderOfCalls(t *testing.T) {
	for _, tt := range []struct {
		name     string
		sync     Sync
		keepOpen bool
		want     []string
	}{
		{"no sync", NoSync, false, []string{"write", "close", "check", "rename"}},
		{"file", SyncFile, false, []string{"write", "sync", "close", "check", "rename"}},
		{"all", SyncAll, false, []string{"write", "sync", "close", "check", "rename", "syncdir"}},
		{"no sync, open", NoSync, true, []string{"write", "check", "rename"}},
		{"all, open", SyncAll, true, []string{"write", "sync", "check", "rename", "syncdir"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, log := faulty("")
			o := Options{Sync: tt.sync, Check: func() error { *log = append(*log, "check"); return nil }}
			name := filepath.Join(t.TempDir(), "file")
			f, err := c.replace(name, o, func(f *os.File) error {
				*log = append(*log, "write")
				return Bytes([]byte("new"))(f)
			}, tt.keepOpen)
			if err != nil || !slices.Equal(*log, tt.want) {
				t.Errorf("%v, %v; want %v", *log, err, tt.want)
			}
			if tt.keepOpen {
				if _, err := f.WriteString(", more"); err != nil {
					t.Error(err)
				}
			}
			if err := f.Close(); errors.Is(err, fs.ErrClosed) == tt.keepOpen {
				t.Errorf("close: %v", err)
			}
			want := "new"
			if tt.keepOpen {
				want = "new, more"
			}
			if got, names := content(t, name); got != want || len(names) != 1 {
				t.Errorf("%q among %v", got, names)
			}
		})
	}
}

// After a fault at any step the name leads to the old content or to the whole
// new content, and no temporary file stays.
func TestReplaceFaults(t *testing.T) {
	for _, temp := range []string{"", "file.*.tmp"} {
		for _, keepOpen := range []bool{false, true} {
			for _, at := range []string{"write", "sync", "close", "check", "rename", "syncdir"} {
				if keepOpen && at == "close" {
					continue
				}
				c, _ := faulty(at)
				o := Options{Temp: temp, Mode: 0o644, Sync: SyncAll}
				if at == "check" {
					o.Check = func() error { return errFault }
				}
				name := filepath.Join(t.TempDir(), "file")
				if err := os.WriteFile(name, []byte("old"), 0o600); err != nil {
					t.Fatal(err)
				}
				var written *os.File
				_, err := c.replace(name, o, func(f *os.File) error {
					written = f
					if _, err := f.WriteString("new"); err != nil || at != "write" {
						return err
					}
					return errFault
				}, keepOpen)
				if !errors.Is(err, errFault) {
					t.Errorf("fault at %s: %v", at, err)
				}
				want := "old"
				if at == "syncdir" { // the rename has happened
					want = "new"
				}
				if got, names := content(t, name); got != want || len(names) != 1 {
					t.Errorf("fault at %s, temp %q, open %v: %q among %v, want %q alone", at, temp, keepOpen, got, names, want)
				}
				if err := written.Close(); !errors.Is(err, fs.ErrClosed) {
					t.Errorf("fault at %s, open %v: the file was left open", at, keepOpen)
				}
			}
		}
	}
}

// The operating system refuses the calls, rather than injected faults.
func TestReplaceRefusedBySystem(t *testing.T) {
	dir := t.TempDir()
	if err := Replace(filepath.Join(dir, "none", "file"), Options{}, Bytes(nil)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	taken := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := Replace(taken, Options{}, Bytes([]byte("new")))
	if _, names := content(t, filepath.Join(dir, "file")); err == nil || len(names) != 1 {
		t.Errorf("a directory in the way: %v, and %v is there", err, names)
	}
	name := filepath.Join(dir, "file")
	err = Replace(name, Options{Sync: SyncFile}, func(f *os.File) error { return f.Close() })
	if _, names := content(t, name); !errors.Is(err, fs.ErrClosed) || len(names) != 1 {
		t.Errorf("a closed file: %v, and %v is there", err, names)
	}
	if err := SyncDir(filepath.Join(dir, "none")); runtime.GOOS != "windows" && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory to sync: %v", err)
	}
}

// A killed process leaves a longer temporary file of the fixed name.
func TestReplaceOverwritesLeftover(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name+".new", []byte(strings.Repeat("torn", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Replace(name, Options{}, Bytes([]byte("new"))); err != nil {
		t.Fatal(err)
	}
	if got, names := content(t, name); got != "new" || len(names) != 1 {
		t.Errorf("%q among %v", got, names)
	}
}

func TestReplaceMode(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such modes")
	}
	for _, temp := range []string{"", "*.tmp"} {
		for mode, want := range map[fs.FileMode]fs.FileMode{0: 0o600, 0o644: 0o644, 0o666: 0o666} {
			name := filepath.Join(t.TempDir(), "file")
			if err := Replace(name, Options{Mode: mode, Temp: temp}, Bytes(nil)); err != nil {
				t.Fatal(err)
			}
			if st, err := os.Stat(name); err != nil || st.Mode() != want {
				t.Errorf("mode %v: %v, %v", mode, st.Mode(), err)
			}
		}
	}
}

func TestBootIDStaysTheSame(t *testing.T) {
	a, b := BootID(), BootID()
	if a != b || strings.TrimSpace(a) != a || runtime.GOOS == "linux" && a == "" {
		t.Errorf("%q, then %q", a, b)
	}
}
