package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// checkFile checks the file for the image's configuration before the pull starts.
func checkFile(name string) error {
	if name == "" || name == "-" {
		return nil
	}
	if fi, err := os.Stat(name); err == nil && fi.IsDir() {
		return fmt.Errorf("--config %q is a directory: name a file in it", name)
	}
	if fi, err := os.Stat(filepath.Dir(name)); err != nil || !fi.IsDir() {
		return fmt.Errorf("--config %q: directory %s does not exist: create it first", name, filepath.Dir(name))
	}
	return nil
}

// saveConfig writes the configuration of an image to stdout for "-", or to a
// file, which becomes visible only with its whole content. If the file is a pipe
// or a device, it writes into it instead of replacing it.
func saveConfig(name string, config []byte, stdout io.Writer) (err error) {
	data := append(config[:len(config):len(config)], '\n')
	if name == "-" {
		_, err = stdout.Write(data)
		return err
	}
	const mode = 0o644
	if fi, err := os.Stat(name); err == nil && !fi.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return errors.Join(err, f.Close())
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".penstock-config-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
