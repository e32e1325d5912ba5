package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// compareTrees reports the first difference between two trees: names, types,
// permissions, link targets, sizes, modification times of files, and bytes. It
// returns the number of entries.
func compareTrees(ctx context.Context, want, got string, progress func(int64)) (int, error) {
	n := 0
	err := filepath.WalkDir(want, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rel, err := filepath.Rel(want, p)
		if err != nil || rel == "." {
			return err
		}
		n++
		return compareEntry(p, filepath.Join(got, rel), rel, progress)
	})
	if err != nil {
		return n, err
	}
	extra := -1 // without the root
	err = filepath.WalkDir(got, func(_ string, _ fs.DirEntry, err error) error {
		extra++
		return err
	})
	if err == nil && extra != n {
		err = fmt.Errorf("%d entries instead of %d", extra, n)
	}
	return n, err
}

func compareEntry(want, got, rel string, progress func(int64)) error {
	w, err := os.Lstat(want)
	if err != nil {
		return err
	}
	g, err := os.Lstat(got)
	if err != nil {
		return err
	}
	switch {
	case w.Mode() != g.Mode():
		return fmt.Errorf("%s: mode %v instead of %v", rel, g.Mode(), w.Mode())
	case w.Mode()&fs.ModeSymlink != 0:
		a, err := os.Readlink(want)
		if err != nil {
			return err
		}
		if b, err := os.Readlink(got); err != nil || a != b {
			return fmt.Errorf("%s: link to %q instead of %q (%w)", rel, b, a, err)
		}
	case w.Mode().IsRegular():
		if w.Size() != g.Size() {
			return fmt.Errorf("%s: %d bytes instead of %d", rel, g.Size(), w.Size())
		}
		if !w.ModTime().Equal(g.ModTime()) {
			return fmt.Errorf("%s: modified %v instead of %v", rel, g.ModTime(), w.ModTime())
		}
		progress(w.Size())
		return compareBytes(want, got, rel)
	}
	return nil
}

func compareBytes(want, got, rel string) error {
	a, err := os.Open(want)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(got)
	if err != nil {
		return err
	}
	defer b.Close()
	return compareReaders(a, b, rel)
}

// compareReaders reports the first difference between two contents.
func compareReaders(want, got io.Reader, name string) error {
	p, q := make([]byte, 256<<10), make([]byte, 256<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(want, p)
		m, gerr := io.ReadFull(got, q)
		if n != m || !bytes.Equal(p[:n], q[:m]) {
			return fmt.Errorf("%s: bytes differ after offset %d", name, at)
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF { //nolint:errorlint // ReadFull returns them bare
			if gerr != err { //nolint:errorlint // likewise
				return fmt.Errorf("%s at %d: %w", name, at, gerr)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}
