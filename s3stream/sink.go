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

// Output says where the bytes go. At most one field is set.
type Output struct {
	// Dir is the directory that gets one file for each object, named by the
	// key without the prefix. A file appears by rename when all its bytes are
	// verified, and replaces an older one; it is not synced to the disk. The
	// directory is made if it is missing.
	Dir string
	// File is the file that gets the only object, in the same way.
	File string
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
func (o *Output) open(m *Manifest) (sink, error) {
	switch {
	case o.Dir != "":
		if err := m.checkNames(); err != nil {
			return nil, err
		}
		return openDir(o.Dir, "")
	case o.File != "":
		if len(m.Objects) != 1 {
			return nil, fmt.Errorf("%d objects do not fit one file %s: give a directory", len(m.Objects), o.File)
		}
		// The file appears by rename, which as root would replace a device, and
		// a link instead of what it leads to.
		if st, err := os.Lstat(o.File); err == nil && !st.Mode().IsRegular() {
			return nil, fmt.Errorf("output %s exists and is not a regular file (%v): use Writer (-o - on the command line) to write to it", o.File, st.Mode().Type())
		}
		return openDir(filepath.Dir(o.File), filepath.Base(o.File))
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

// tempPrefix marks files under way; no object's name may have it.
const tempPrefix = ".penstock-"

// dirSink writes one file at a time under a temporary name. All paths go
// through an os.Root, so no key and no symbolic link leads out of the directory.
type dirSink struct {
	dir  string
	made bool // the directory is ours: removed if it stays empty
	root *os.Root
	as   string // the name of the only file; "" for the objects' names
	temp string
	f    *os.File
	kept bool // at least one file appeared
}

func openDir(dir, as string) (*dirSink, error) {
	s := &dirSink{dir: dir, as: as, temp: tempPrefix + rand.Text()[:10] + ".part"}
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
	// Fail now, not after the first gigabyte, if nothing can be written here.
	if err := s.openTemp(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *dirSink) openTemp() (err error) {
	if s.f == nil {
		s.f, err = s.root.OpenFile(s.temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	}
	return s.named(err)
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
	err := s.f.Close()
	s.f = nil
	if err != nil {
		return s.named(errors.Join(err, s.root.Remove(s.temp)))
	}
	name := s.as
	if name == "" {
		name = filepath.FromSlash(o.Name)
	}
	if d := path.Dir(filepath.ToSlash(name)); d != "." {
		err = s.root.MkdirAll(d, 0o755)
	}
	if err == nil {
		err = s.root.Rename(s.temp, name)
	}
	if err != nil {
		return s.named(errors.Join(err, s.root.Remove(s.temp)))
	}
	s.kept = true
	return nil
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
		_ = s.f.Close()
		_ = s.root.Remove(s.temp)
		s.f = nil
	}
	_ = s.root.Close()
	if s.made && !s.kept {
		_ = os.Remove(s.dir) // only if empty
	}
}
