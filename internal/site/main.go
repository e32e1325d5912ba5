package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	root := flag.String("root", ".", "top of the repository")
	out := flag.String("out", "site", "folder for the site; its old content is removed")
	flag.Parse()
	if err := run(*root, *out); err != nil {
		fmt.Fprintln(os.Stderr, "site:", err)
		os.Exit(1) //nolint:forbidigo // a program
	}
}

// run makes the site of the tree at root in the folder out.
func run(root, out string) error {
	s, err := load(root)
	if err != nil {
		return err
	}
	files, err := s.render()
	if err != nil {
		return err
	}
	if err := write(out, files); err != nil {
		return err
	}
	if err := check(files); err != nil {
		return err
	}
	fmt.Printf("%d pages and %d assets in %s\n", len(s.pages), len(files)-len(s.pages), out) //nolint:forbidigo // a program
	return nil
}

// marker is a file that shows that a folder is a site, which may be replaced.
const marker = "style.css"

// write replaces the folder out by the files.
func write(out string, files map[string][]byte) error {
	if entries, err := os.ReadDir(out); err == nil && len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(out, marker)); err != nil {
			return fmt.Errorf("%s is not empty and not a site: remove it, or name another folder", out)
		}
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	var bad []error
	for name, content := range files {
		file := filepath.Join(out, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		bad = append(bad, os.WriteFile(file, content, 0o644))
	}
	return errors.Join(bad...)
}
