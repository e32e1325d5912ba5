package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/testorigin"
)

// environment holds the things that the paths share: input, scratch space, origin.
type environment struct {
	options
	ui     *ui
	origin *testorigin.Origin
	dir    string // scratch, removed at the end
	files  []file // regular files of the input, by key
	bytes  int64  // of all files
}

// file is one regular file of the input.
type file struct {
	key  string // path below the input, with slashes
	path string
	size int64
}

func newEnvironment(o options) (*environment, error) {
	e := &environment{options: o, ui: newUI(os.Stdout)}
	if err := e.scan(); err != nil {
		return nil, err
	}
	var err error
	if e.dir, err = os.MkdirTemp(o.temp, "penstock-demo-"); err != nil {
		return nil, err
	}
	if e.origin, err = testorigin.Start(testorigin.Options{Registry: testorigin.RegistryOptions{Auth: "token", AnonymousPull: true, RedirectBlobs: true}}); err != nil {
		return nil, fmt.Errorf("start the origin: %w", err)
	}
	e.ui.say("input: %s, %d files, %s", o.source, len(e.files), size(e.bytes))
	e.ui.say("origin: S3 and OCI registry at %s (in this process)", e.origin.URL())
	return e, nil
}

// scan lists the regular files of the input in the order of their keys.
func (e *environment) scan() error {
	err := filepath.WalkDir(e.source, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(e.source, p)
		if err != nil {
			return err
		}
		e.files = append(e.files, file{filepath.ToSlash(rel), p, info.Size()})
		e.bytes += info.Size()
		return nil
	})
	slices.SortFunc(e.files, func(a, b file) int { return cmp.Compare(a.key, b.key) })
	if err == nil && len(e.files) == 0 {
		err = fmt.Errorf("%s has no files", e.source)
	}
	return err
}

// scratch makes a folder in the scratch space.
func (e *environment) scratch(name string) (string, error) {
	dir := filepath.Join(e.dir, name)
	return dir, os.MkdirAll(dir, 0o755)
}

func (e *environment) close() error {
	err := e.origin.Close()
	if rerr := removeAll(e.dir); err == nil {
		err = rerr
	}
	return err
}

// removeAll removes a tree in which folders may be read-only, as in a Go tree
// from a module cache.
func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(p, 0o700) // RemoveAll below reports the failure
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// cpu returns the CPU time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
