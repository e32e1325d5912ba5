package s3stream

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Block is a piece of an object, given to OnBlock.
type Block struct {
	Object *Object
	Off    int64
	Data   []byte // valid until OnBlock returns
	// Done comes once for each object, with no data, after its last block: all
	// its bytes match the checksum. Before that they only match those of their
	// blocks.
	Done bool
}

// Output says where the bytes go. At most one of Dir, File, Writer and OnBlock is set.
type Output struct {
	// Dir is the directory that gets one file for each object, named by the
	// key without the prefix. A file appears by rename when all its bytes are
	// verified, and replaces an older regular file. The directory is made if it
	// is missing. Temporary files of processes that were killed are removed.
	Dir string
	// File is the file that gets the only object, in the same way.
	File string
	// Sync flushes each file to the disk before it gets its name, and its directory after. Without it, a power cut can
	// leave files under their final names that are empty or lack bytes.
	Sync bool
	// Writer gets the bytes of all objects in order. It sees them before the
	// checksum of the whole object is known: without Run's nil they are not proven.
	Writer io.Writer
	// OnBlock is called for each block in order, from one goroutine. An error
	// ends the run.
	OnBlock func(Block) error
}

// count returns how many fields are set.
func (o *Output) count() (n int) {
	for _, set := range []bool{o.Dir != "", o.File != "", o.Writer != nil, o.OnBlock != nil} {
		if set {
			n++
		}
	}
	return n
}

func (o *Output) validate(required bool) error {
	switch n := o.count(); {
	case n > 1:
		return errors.New("more than one output: set only one of Dir, File, Writer and OnBlock")
	case n == 0 && required:
		return errors.New("no output: set one of Dir, File, Writer and OnBlock")
	}
	return nil
}

// sink takes verified blocks in order. Exactly one of abort and done ends it.
type sink interface {
	block(o *Object, off int64, p []byte) error
	end(o *Object) error // everything of o came and is right
	close()              // forgets what has not ended
}

// open makes the sink, after the manifest is known and before the first block.
func (o *Output) open(m *manifest) (sink, error) {
	switch {
	case o.Dir != "":
		if err := m.checkNames(); err != nil {
			return nil, err
		}
		return openDir(o.Dir, "", o.Sync)
	case o.File != "":
		if len(m.Objects) != 1 {
			return nil, fmt.Errorf("%d objects do not fit one file %s: give a directory", len(m.Objects), o.File)
		}
		// The file appears by rename, which as root would replace a device, and
		// a link instead of what it leads to.
		if st, err := os.Lstat(o.File); err == nil && !st.Mode().IsRegular() {
			return nil, fmt.Errorf("output %s exists and is not a regular file (%v): use Writer (-o - on the command line) to write to it", o.File, st.Mode().Type())
		}
		return openDir(filepath.Dir(o.File), filepath.Base(o.File), o.Sync)
	case o.Writer != nil:
		return writerSink{o.Writer}, nil
	case o.OnBlock != nil:
		return funcSink{o.OnBlock}, nil
	}
	return funcSink{func(Block) error { return nil }}, nil
}

type writerSink struct{ w io.Writer }

func (s writerSink) block(_ *Object, _ int64, p []byte) error {
	_, err := s.w.Write(p)
	return err
}
func (s writerSink) end(*Object) error { return nil }
func (s writerSink) close()            {}

type funcSink struct{ f func(Block) error }

func (s funcSink) block(o *Object, off int64, p []byte) error {
	return s.f(Block{Object: o, Off: off, Data: p})
}
func (s funcSink) end(o *Object) error { return s.f(Block{Object: o, Off: o.Size, Done: true}) }
func (s funcSink) close()              {}

// tempPrefix and tempSuffix mark files under way; no object's name may have the prefix.
const (
	tempPrefix = ".penstock-"
	tempSuffix = ".part"
)

// dirSink writes one file at a time under a temporary name. All paths go
// through an os.Root, so no key and no symbolic link leads out of the directory.
type dirSink struct {
	dir  string
	made bool // the directory is ours: removed if it stays empty
	sync bool // flush a file to the disk before it appears, and its directory after
	root *os.Root
	as   string // the name of the only file; "" for the objects' names
	temp string
	f    *os.File
	kept bool // at least one file appeared
}

func openDir(dir, as string, sync bool) (*dirSink, error) {
	s := &dirSink{dir: dir, as: as, sync: sync}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		s.made = true
	}
	var err error
	if s.root, err = os.OpenRoot(dir); err != nil {
		return nil, err
	}
	s.sweep()
	// Fail now, not after the first gigabyte, if nothing can be written here.
	if err := s.openTemp(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// sweep removes the temporary files of processes that were killed. A file that cannot be looked at stays.
func (s *dirSink) sweep() {
	d, err := s.root.Open(".")
	if err != nil {
		return
	}
	defer d.Close()
	entries, _ := d.ReadDir(-1)
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), tempPrefix) || !strings.HasSuffix(e.Name(), tempSuffix) {
			continue
		}
		f, err := s.root.OpenFile(e.Name(), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if abandoned(f) {
			_ = s.root.Remove(e.Name())
		}
		_ = f.Close()
	}
}

func (s *dirSink) openTemp() error {
	for s.f == nil {
		s.temp = tempPrefix + rand.Text()[:10] + tempSuffix
		f, err := s.root.OpenFile(s.temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return s.named(err)
		}
		ours, err := lockTemp(s.root, s.temp, f)
		switch {
		case err != nil:
			return s.named(errors.Join(err, f.Close(), s.root.Remove(s.temp)))
		case ours:
			s.f = f
		default:
			_ = f.Close() // the sweep of another process removed it: the next name is another
		}
	}
	return nil
}

func (s *dirSink) block(_ *Object, off int64, p []byte) error {
	if err := s.openTemp(); err != nil {
		return err
	}
	_, err := s.f.WriteAt(p, off)
	return s.named(err)
}

func (s *dirSink) end(o *Object) error {
	if err := s.openTemp(); err != nil { // an empty object had no block
		return err
	}
	if err := s.publish(o); err != nil {
		err = errors.Join(err, s.root.Remove(s.temp), s.f.Close())
		s.f = nil
		return s.named(err)
	}
	err := s.f.Close() // the lock ends here: the file has its own name, which no sweep looks at
	s.f = nil
	s.kept = true
	return s.named(err)
}

// publish gives the finished file its name.
func (s *dirSink) publish(o *Object) error {
	name := s.as
	if name == "" {
		name = filepath.FromSlash(o.Name)
	}
	dir := path.Dir(filepath.ToSlash(name))
	if dir != "." {
		if err := s.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if st, err := s.root.Lstat(name); err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("%s exists and is not a regular file (%v): it is not replaced", name, st.Mode().Type())
	}
	if !s.sync {
		return s.root.Rename(s.temp, name)
	}
	if err := s.f.Sync(); err != nil {
		return err
	}
	if err := s.root.Rename(s.temp, name); err != nil {
		return err
	}
	// The new names of the file and of directories that were made for it.
	for ; ; dir = path.Dir(dir) {
		if err := s.syncDir(dir); err != nil || dir == "." {
			return err
		}
	}
}

func (s *dirSink) syncDir(name string) error {
	d, err := s.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// named adds the directory to an error, whose path is relative to it.
func (s *dirSink) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("in %s: %w", s.dir, err)
}

func (s *dirSink) close() {
	// Errors here have no remedy and follow a first one that is told.
	if s.f != nil {
		_ = s.root.Remove(s.temp)
		_ = s.f.Close()
		s.f = nil
	}
	_ = s.root.Close()
	if s.made && !s.kept {
		_ = os.Remove(s.dir) // only if empty
	}
}
