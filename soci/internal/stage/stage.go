package stage

import (
	"encoding/json"
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

	"github.com/penstock/penstock/internal/disk"
	"github.com/penstock/penstock/soci/internal/untar"
)

// Stage is the hidden directory of one pull. Open makes it, Close releases it.
type Stage struct {
	target string // absolute, symbolic links resolved
	dir    string
	// inside is set if dir lies in the target.
	inside bool
	sync   bool // flush the journal, and the target's directory after a commit

	lock       *os.File
	journal    *journal
	finished   map[string]entry // layers of an earlier pull, by name; claimed ones are deleted
	unfinished map[string]bool  // layers of an earlier pull that have a checkpoint; claimed ones are deleted
}

const (
	suffix      = ".penstock"
	lockName    = "lock"
	journalName = "journal"
	layersName  = "layers"
	partsName   = "parts"
	// KeepDead is how long the files of a dead process are kept for the next
	// attempt. A day covers reboots in a night.
	KeepDead = 24 * time.Hour
)

// Open checks the target and locks its hidden directory, which it makes if
// needed. It fails if another pull holds the lock. With sync, the Stage flushes
// each line of the journal, and the target's directory after a Commit; the
// caller flushes a layer before it calls Finish.
func Open(target string, sync bool) (*Stage, error) {
	if target == "" {
		return nil, errors.New("no target directory: name one")
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
	s := &Stage{target: target, sync: sync}
	if exists {
		parent = filepath.Dir(target) // a link to the target may have been given
		s.inside = isMount(target, parent)
	}
	if !s.inside {
		s.dir = filepath.Join(parent, "."+filepath.Base(target)+suffix)
		err = s.acquire()
		if exists && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)) {
			s.inside = true
		}
	}
	if s.inside {
		s.dir = filepath.Join(target, suffix)
		err = s.acquire()
	}
	if err != nil {
		return nil, err
	}
	if err := s.recover(exists); err != nil {
		return nil, errors.Join(err, s.Close(false))
	}
	if !s.inside {
		sweep(parent, s.dir)
	}
	return s, nil
}

// Target returns the absolute path of the target, symbolic links resolved.
func (s *Stage) Target() string { return s.target }

// Dir returns the hidden directory.
func (s *Stage) Dir() string { return s.dir }

// Layer returns the directory of a layer, or of all layers if name is empty.
func (s *Stage) Layer(name string) string { return filepath.Join(s.dir, layersName, name) }

// Checkpoint returns the path of a layer's checkpoint file.
func (s *Stage) Checkpoint(name string) string { return filepath.Join(s.dir, partsName, name) }

// acquire makes the hidden directory and locks it.
func (s *Stage) acquire() error {
	for range 10 { // another process may remove the directory between two steps
		if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		fi, err := os.Lstat(s.dir)
		if err != nil {
			continue
		}
		if !fi.IsDir() || !mine(fi) || fi.Mode().Perm() != 0o700 {
			return fmt.Errorf("%s is in the way: it is not a directory that we made; remove it", s.dir)
		}
		f, err := Lock(filepath.Join(s.dir, lockName))
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
	return fmt.Errorf("%s was replaced repeatedly while locking it", s.dir)
}

// recover lists the layers that an earlier pull has left and removes everything
// else in the hidden directory.
func (s *Stage) recover(exists bool) error {
	path, boot := filepath.Join(s.dir, journalName), disk.BootID()
	finished, moves, err := readJournal(path, boot)
	if err != nil {
		return err
	}
	if err := undoMoves(s.target, moves); err != nil {
		return err
	}
	if exists {
		if err := s.checkEmpty(); err != nil {
			return err
		}
	}
	layers := s.Layer("")
	if err := os.Mkdir(layers, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for name := range finished {
		if fi, err := os.Lstat(filepath.Join(layers, name)); err != nil || !fi.IsDir() {
			delete(finished, name)
		}
	}
	if s.journal, err = newJournal(path, boot, s.sync, finished); err != nil {
		return err
	}
	parts := s.Checkpoint("")
	if err := os.Mkdir(parts, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if s.unfinished, err = withCheckpoint(layers, parts, finished); err != nil {
		return err
	}
	if err := keepOnly(parts, slices.Collect(maps.Keys(s.unfinished))...); err != nil {
		return err
	}
	if err := keepOnly(layers, slices.AppendSeq(slices.Collect(maps.Keys(finished)), maps.Keys(s.unfinished))...); err != nil {
		return err
	}
	s.finished = finished
	return keepOnly(s.dir, lockName, journalName, layersName, partsName)
}

// withCheckpoint lists the layers that are not finished and have a checkpoint.
func withCheckpoint(layers, parts string, finished map[string]entry) (map[string]bool, error) {
	names, err := os.ReadDir(parts)
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool)
	for _, n := range names {
		fi, err := os.Lstat(filepath.Join(layers, n.Name()))
		if _, done := finished[n.Name()]; err == nil && fi.IsDir() && !done && n.Type().IsRegular() {
			out[n.Name()] = true
		}
	}
	return out, nil
}

// checkEmpty fails if the target has entries other than the hidden directory.
func (s *Stage) checkEmpty() error {
	names, err := os.ReadDir(s.target)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !s.inside || n.Name() != suffix {
			return fmt.Errorf("%s is not empty: name a new directory, or empty this one", s.target)
		}
	}
	return nil
}

// sweep removes hidden directories that dead pulls of other targets have left in
// parent, if they are older than KeepDead or their target holds files by now.
func sweep(parent, except string) {
	names, err := filepath.Glob(filepath.Join(EscapeGlob(parent), ".*"+suffix))
	if err != nil {
		return
	}
	for _, dir := range names {
		fi, err := os.Lstat(dir)
		if dir == except || err != nil || !fi.IsDir() || !mine(fi) {
			continue
		}
		base := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), "."), suffix)
		there, err := os.ReadDir(filepath.Join(parent, base))
		last := fi.ModTime()
		for _, name := range []string{journalName, partsName} {
			if fi, err := os.Lstat(filepath.Join(dir, name)); err == nil && fi.ModTime().After(last) {
				last = fi.ModTime()
			}
		}
		if time.Since(last) < KeepDead && (err != nil || len(there) == 0) {
			continue
		}
		s := &Stage{dir: dir}
		if s.lock, err = Lock(filepath.Join(dir, lockName)); err == nil && s.lock != nil {
			_ = s.Close(false) // best effort: this pull does not depend on it
		}
	}
}

// EscapeGlob returns a pattern that matches the path itself.
func EscapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// resolveDir reports whether target exists and is a directory. It replaces a
// symbolic link by the directory behind it.
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

// isMount reports whether dir is a mount point.
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

// Finished describes a layer that an earlier pull had finished.
type Finished struct {
	Result json.RawMessage // as given to Finish
	State  json.RawMessage // for untar.Load
}

// Finished returns an earlier pull's record of a layer.
func (s *Stage) Finished(name string) (Finished, bool) {
	e, ok := s.finished[name]
	return Finished{Result: e.Layer, State: e.State}, ok
}

// ClaimFinished keeps a finished layer of an earlier pull from DropUnclaimed.
func (s *Stage) ClaimFinished(name string) { delete(s.finished, name) }

// ClaimUnfinished reports whether an earlier pull has left a layer with a
// checkpoint. From then on the caller removes both if it cannot use them.
func (s *Stage) ClaimUnfinished(name string) bool {
	ok := s.unfinished[name]
	delete(s.unfinished, name)
	return ok
}

// DropUnclaimed removes the layers of earlier pulls that were not claimed.
func (s *Stage) DropUnclaimed() error {
	var errs error
	for name := range s.finished {
		errs = errors.Join(errs, untar.RemoveAll(s.Layer(name)))
	}
	for name := range s.unfinished {
		errs = errors.Join(errs, untar.RemoveAll(s.Layer(name)), os.Remove(s.Checkpoint(name)))
	}
	s.finished, s.unfinished = nil, nil
	return errs
}

// Finish records in the journal that a layer is whole and verified. A later
// pull gets result back from Finished. Finish fails with untar.ErrTooLarge if the
// state of the layer is too large to keep. With sync, the caller has flushed
// the layer.
func (s *Stage) Finish(name string, result any, l *untar.Layer) error {
	data, err := json.Marshal(result)
	if err != nil {
		return err
	}
	return s.journal.finished(data, name, l)
}

// BeginMerge records that the directories of the layers no longer hold one
// layer each. A later pull then fetches all of them again.
func (s *Stage) BeginMerge() error { return s.journal.write(entry{Merging: true}) }

// Commit makes the tree visible as the target. With sync the target survives a
// power cut once Commit has returned nil.
func (s *Stage) Commit(tree string) error {
	if err := s.publish(tree); err != nil || !s.sync {
		return err
	}
	if s.inside {
		return disk.SyncDir(s.target)
	}
	return errors.Join(disk.SyncDir(filepath.Dir(s.target)), disk.SyncDir(filepath.Dir(tree)))
}

// publish moves the tree to the target.
func (s *Stage) publish(tree string) error {
	if !s.inside {
		// rename(2) replaces an empty directory; os.Rename refuses to.
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

// Reusable reports whether the next pull could reuse a layer of this stage.
func (s *Stage) Reusable() bool {
	finished, unfinished, err := s.reusable()
	return err == nil && len(finished)+len(unfinished) > 0
}

// reusable returns the finished layers, and those with a checkpoint, that the
// next pull will find.
func (s *Stage) reusable() (finished map[string]entry, unfinished map[string]bool, err error) {
	if finished, _, err = readJournal(filepath.Join(s.dir, journalName), disk.BootID()); err != nil {
		return nil, nil, err
	}
	unfinished, err = withCheckpoint(s.Layer(""), s.Checkpoint(""), finished)
	return finished, unfinished, err
}

// tidy removes the layers that the next pull cannot reuse.
func (s *Stage) tidy() error {
	finished, unfinished, err := s.reusable()
	if err != nil {
		return err
	}
	return keepOnly(s.Layer(""), slices.AppendSeq(slices.Collect(maps.Keys(finished)), maps.Keys(unfinished))...)
}

// Close releases the lock. Unless keep is set it removes the hidden directory,
// the journal first, so that the rest of a partly removed stage is never taken
// for finished layers.
func (s *Stage) Close(keep bool) error {
	var err error
	if s.journal != nil {
		err = s.journal.f.Close()
	}
	if keep {
		err = errors.Join(err, s.tidy())
	} else {
		if rerr := os.Remove(filepath.Join(s.dir, journalName)); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
		err = errors.Join(err, untar.RemoveAll(s.dir))
	}
	return errors.Join(err, s.lock.Close())
}
