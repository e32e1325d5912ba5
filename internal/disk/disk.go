package disk

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Sync says how much of a new file is on the disk when [Replace] returns.
type Sync int

const (
	// NoSync leaves the file to the kernel, which writes it back later.
	NoSync Sync = iota
	// SyncFile syncs the content before the rename, so that the name never leads
	// to torn content. After a power cut it may lead to the old content.
	SyncFile
	// SyncAll syncs the content and, after the rename, the directory, so that
	// the new content outlives a power cut.
	SyncAll
)

// Options of [Replace] and [ReplaceOpen].
type Options struct {
	// Mode is the mode of the file, whatever the umask; 0600 if it is 0.
	Mode fs.FileMode
	// Temp is the pattern of the temporary name, as for [os.CreateTemp]. If it is
	// empty, the temporary file has the name of the file with ".new" appended. It
	// is overwritten if it exists, so only one writer at a time may replace the
	// file.
	Temp string
	// Sync says how much is synced.
	Sync Sync
	// Check is called before the rename. Its error ends the replacement.
	Check func() error
}

// Bytes returns a function for [Replace] that writes p.
func Bytes(p []byte) func(*os.File) error {
	return func(f *os.File) error {
		_, err := f.Write(p)
		return err
	}
}

// Replace replaces the file name with a new file, whose content write writes.
func Replace(name string, o Options, write func(*os.File) error) error {
	_, err := system.replace(name, o, write, false)
	return err
}

// ReplaceOpen is [Replace] for a file that the caller keeps open and appends to.
func ReplaceOpen(name string, o Options, write func(*os.File) error) (*os.File, error) {
	return system.replace(name, o, write, true)
}

// SyncDir syncs the entries of a directory: new names, renames and removals in
// it. It does nothing on Windows, which cannot do that.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// BootID names the running system, or is empty if that is unknown. A different
// ID means that the system was started again, and that content written without
// a sync may be lost.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// calls are the calls that can fail, so that tests can let each one fail.
type calls struct {
	sync, close func(*os.File) error
	rename      func(from, to string) error
	syncDir     func(dir string) error
}

// system calls the operating system.
var system = calls{
	sync:    (*os.File).Sync,
	close:   (*os.File).Close,
	rename:  os.Rename,
	syncDir: SyncDir,
}

func (c *calls) replace(name string, o Options, write func(*os.File) error, keepOpen bool) (_ *os.File, err error) {
	f, err := create(name, o.Temp)
	if err != nil {
		return nil, err
	}
	open, renamed := true, false
	defer func() {
		if err == nil {
			return
		}
		if open {
			err = errors.Join(err, f.Close())
		}
		if !renamed {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := write(f); err != nil {
		return nil, err
	}
	if o.Mode != 0 {
		if err := f.Chmod(o.Mode); err != nil {
			return nil, err
		}
	}
	if o.Sync != NoSync {
		if err := c.sync(f); err != nil {
			return nil, err
		}
	}
	if !keepOpen { // before the rename: NFS reports a full disk here
		open = false
		if err := c.close(f); err != nil {
			return nil, err
		}
	}
	if o.Check != nil {
		if err := o.Check(); err != nil {
			return nil, err
		}
	}
	if err := c.rename(f.Name(), name); err != nil {
		return nil, err
	}
	renamed = true
	if o.Sync == SyncAll {
		if err := c.syncDir(filepath.Dir(name)); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// create opens the temporary file.
func create(name, temp string) (*os.File, error) {
	if temp != "" {
		return os.CreateTemp(filepath.Dir(name), temp)
	}
	return os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
}
