package soci

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/soci/internal/untar"
)

// stage is the hidden directory in which a tree grows until it may be seen. Its name
// is the target's, so that the next pull of that target finds what a killed one left.
//
//	lock      locked while a process works here; the lock ends with the process
//	journal   what is finished
//	layers/   a directory for each layer
//	parts/    checkpoints of layers that are not finished
type stage struct {
	target string // absolute, symbolic links resolved
	work   string
	// inside: work lies in the target, because the target is a mount point or its
	// parent may not be written to. The tree is then moved entry by entry.
	inside bool

	lock    *os.File
	journal *journal
	found   map[string]entry // finished layers of an earlier pull, by name in layers
	begun   map[string]bool  // layers of it that have a checkpoint; those that nobody wanted yet
	keep    bool             // the stage outlives this pull
}

const (
	stageSuffix = ".penstock"
	lockName    = "lock"
	journalName = "journal"
	layersName  = "layers"
	partsName   = "parts"
	// keepDead is how long what a dead pull left stays for its next attempt; a day
	// covers a night's reboots.
	keepDead = 24 * time.Hour
)

// newStage checks the target and takes the hidden directory beside it, on the same
// file system.
func newStage(target string, sync bool) (*stage, error) {
	if target == "" {
		return nil, errors.New("no target directory is named")
	}
	target, err := filepath.Abs(target)
	if err != nil {
		return nil, err
	}
	parent := filepath.Dir(target)
	exists, err := resolveDir(&target)
	if err != nil {
		return nil, err
	}
	if fi, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("directory %s does not exist: create it first", parent)
	} else if err != nil {
		return nil, err
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", parent)
	}
	s := &stage{target: target}
	if exists {
		parent = filepath.Dir(target) // a link to the target may have been given
		s.inside = isMount(target, parent)
	}
	if !s.inside {
		s.work = filepath.Join(parent, "."+filepath.Base(target)+stageSuffix)
		err = s.take()
		if exists && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)) {
			s.inside = true
		}
	}
	if s.inside {
		s.work = filepath.Join(target, stageSuffix)
		err = s.take()
	}
	if err != nil {
		return nil, err
	}
	if err := s.begin(exists, sync); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	if !s.inside {
		sweep(parent, s.work)
	}
	return s, nil
}

// take makes the hidden directory and locks it.
func (s *stage) take() error {
	for range 10 { // each time somebody else has just removed it
		if err := os.Mkdir(s.work, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		fi, err := os.Lstat(s.work)
		if err != nil {
			continue
		}
		if !fi.IsDir() || !mine(fi) || fi.Mode().Perm() != 0o700 {
			return fmt.Errorf("%s is in the way: it is not a directory that we made; remove it", s.work)
		}
		f, err := lockFile(filepath.Join(s.work, lockName))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if f == nil {
			return fmt.Errorf("another pull is filling %s", s.target)
		}
		s.lock = f
		return nil
	}
	return fmt.Errorf("%s comes and goes", s.work)
}

// begin takes over what an earlier pull has finished and removes the rest.
func (s *stage) begin(exists, sync bool) error {
	path, boot := filepath.Join(s.work, journalName), bootID()
	found, moves, err := readJournal(path, boot)
	if err != nil {
		return err
	}
	if err := undoMoves(s.target, moves); err != nil {
		return err
	}
	if exists {
		if err := s.empty(); err != nil {
			return err
		}
	}
	layers := filepath.Join(s.work, layersName)
	if err := os.Mkdir(layers, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for name := range found {
		if fi, err := os.Lstat(filepath.Join(layers, name)); err != nil || !fi.IsDir() {
			delete(found, name)
		}
	}
	if s.journal, err = newJournal(path, boot, sync, found); err != nil {
		return err
	}
	parts := filepath.Join(s.work, partsName)
	if err := os.Mkdir(parts, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if s.begun, err = begun(layers, parts, found); err != nil {
		return err
	}
	if err := keepOnly(parts, slices.Collect(maps.Keys(s.begun))...); err != nil {
		return err
	}
	if err := keepOnly(layers, slices.AppendSeq(slices.Collect(maps.Keys(found)), maps.Keys(s.begun))...); err != nil {
		return err
	}
	s.found = found
	return keepOnly(s.work, lockName, journalName, layersName, partsName)
}

// begun lists the layers that are not finished and have a checkpoint.
func begun(layers, parts string, found map[string]entry) (map[string]bool, error) {
	names, err := os.ReadDir(parts)
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool)
	for _, n := range names {
		fi, err := os.Lstat(filepath.Join(layers, n.Name()))
		if _, done := found[n.Name()]; err == nil && fi.IsDir() && !done && n.Type().IsRegular() {
			out[n.Name()] = true
		}
	}
	return out, nil
}

// empty makes sure that nothing lies in the target.
func (s *stage) empty() error {
	names, err := os.ReadDir(s.target)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !s.inside || n.Name() != stageSuffix {
			return fmt.Errorf("%s is not empty: name a new directory, or empty this one", s.target)
		}
	}
	return nil
}

// sweep removes what dead pulls of other targets left in a directory: those that
// nobody came back to for a day, and those whose target is there by now.
func sweep(parent, but string) {
	names, err := filepath.Glob(filepath.Join(escapeGlob(parent), ".*"+stageSuffix))
	if err != nil {
		return
	}
	for _, work := range names {
		fi, err := os.Lstat(work)
		if work == but || err != nil || !fi.IsDir() || !mine(fi) {
			continue
		}
		base := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(work), "."), stageSuffix)
		there, err := os.ReadDir(filepath.Join(parent, base))
		last := fi.ModTime()
		for _, name := range []string{journalName, partsName} {
			if fi, err := os.Lstat(filepath.Join(work, name)); err == nil && fi.ModTime().After(last) {
				last = fi.ModTime()
			}
		}
		if time.Since(last) < keepDead && (err != nil || len(there) == 0) {
			continue
		}
		s := &stage{work: work}
		if s.lock, err = lockFile(filepath.Join(work, lockName)); err == nil && s.lock != nil {
			_ = s.remove() // a courtesy: what can not be removed is not ours to report
		}
	}
}

// escapeGlob makes a path mean itself.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// resolveDir reports whether target exists, as a directory, and replaces it by the
// directory that it may link to.
func resolveDir(target *string) (bool, error) {
	if _, err := os.Lstat(*target); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	real, err := filepath.EvalSymlinks(*target)
	if err != nil {
		return false, err
	}
	fi, err := os.Stat(real)
	if err != nil {
		return false, err
	}
	if !fi.IsDir() {
		return false, fmt.Errorf("%s exists and is not a directory", *target)
	}
	*target = real
	return true, nil
}

func isMount(dir, parent string) bool {
	a, err1 := os.Lstat(dir)
	b, err2 := os.Lstat(parent)
	if err1 != nil || err2 != nil {
		return false
	}
	sa, ok1 := a.Sys().(*syscall.Stat_t)
	sb, ok2 := b.Sys().(*syscall.Stat_t)
	return ok1 && ok2 && (sa.Dev != sb.Dev || sa.Ino == sb.Ino)
}

// layer is the directory of a layer in the stage.
func (s *stage) layer(name string) string { return filepath.Join(s.work, layersName, name) }

// dropFound removes the finished layers that nobody took over.
func (s *stage) dropFound() error {
	var errs error
	for name := range s.found {
		errs = errors.Join(errs, untar.RemoveAll(s.layer(name)))
	}
	for name := range s.begun {
		errs = errors.Join(errs, untar.RemoveAll(s.layer(name)), os.Remove(s.partPath(name)))
	}
	s.found, s.begun = nil, nil
	return errs
}

// commit makes the tree visible as the target. With sync the target outlives a power cut when it
// returns without error.
func (s *stage) commit(tree string, sync bool) error {
	if err := s.show(tree); err != nil || !sync {
		return err
	}
	if s.inside {
		return syncDir(s.target)
	}
	return errors.Join(syncDir(filepath.Dir(s.target)), syncDir(filepath.Dir(tree)))
}

// syncDir flushes the entries of a directory.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// show moves the tree to the target.
func (s *stage) show(tree string) error {
	if !s.inside {
		// Not os.Rename: it refuses what rename(2) does, to replace an empty directory.
		if err := syscall.Rename(tree, s.target); err != nil {
			return &os.LinkError{Op: "rename", Old: tree, New: s.target, Err: err}
		}
		return nil
	}
	names, err := os.ReadDir(tree)
	if err != nil {
		return err
	}
	var moves []moved
	for _, n := range names {
		fi, err := n.Info()
		if err != nil {
			return err
		}
		moves = append(moves, moved{[]byte(n.Name()), inode(fi)})
	}
	if err := s.journal.write(entry{Moving: moves}); err != nil {
		return err
	}
	for _, n := range names {
		if err := os.Rename(filepath.Join(tree, n.Name()), filepath.Join(s.target, n.Name())); err != nil {
			return errors.Join(err, undoMoves(s.target, moves)) // all or nothing
		}
	}
	return nil
}

// keeps decides whether a pull that ended with err leaves what it has finished. A full disk needs the
// room more than the next pull needs the layers.
func keeps(err error, keepFailed bool) bool {
	return err != nil && keepFailed && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT)
}

// worth reports whether the next pull could take something over.
func (s *stage) worth() bool {
	found, begun, err := s.leftover()
	return err == nil && len(found)+len(begun) > 0
}

// leftover returns what the next pull takes over: finished layers, and layers with a checkpoint.
func (s *stage) leftover() (found map[string]entry, unfinished map[string]bool, err error) {
	if found, _, err = readJournal(filepath.Join(s.work, journalName), bootID()); err != nil {
		return nil, nil, err
	}
	unfinished, err = begun(filepath.Join(s.work, layersName), filepath.Join(s.work, partsName), found)
	return found, unfinished, err
}

// tidy removes the layers that the next pull can not take over.
func (s *stage) tidy() error {
	found, unfinished, err := s.leftover()
	if err != nil {
		return err
	}
	return keepOnly(filepath.Join(s.work, layersName), slices.AppendSeq(slices.Collect(maps.Keys(found)), maps.Keys(unfinished))...)
}

// remove takes the hidden directory away, the journal first: half a stage must not
// look like a whole one.
func (s *stage) remove() error {
	var err error
	if s.journal != nil {
		err = s.journal.f.Close()
	}
	if s.keep {
		err = errors.Join(err, s.tidy())
	}
	if !s.keep {
		if rerr := os.Remove(filepath.Join(s.work, journalName)); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
		err = errors.Join(err, untar.RemoveAll(s.work))
	}
	return errors.Join(err, s.lock.Close())
}
