package dnsplugin

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/coredns/caddy"
	clog "github.com/coredns/coredns/plugin/pkg/log"

	"github.com/penstock/penstock/internal/disk"
)

// The file of a snapshot. It has one owner at a time, among all processes. Only
// a regular file is ever replaced, and a snapshot is read only if no user except
// ours and root could have written it.

const (
	// warmSync is the number of written bytes after which they are synced to the
	// disk. Until then they count as memory of the container.
	warmSync = 16 << 20
	// warmFileMode admits only the user of the server, because queried names are
	// private.
	warmFileMode = 0o600
)

// warmSet holds the snapshot files of a process, by their real path.
type warmSet struct {
	mu     sync.Mutex // guards all below and the files
	byPath map[string]*warmFile

	isControl func(path string) bool // there is a control socket at path
}

// warmFile is a FILE with its owner.
type warmFile struct {
	owner   *Cache
	place   string // the owner's position in the Corefile
	before  *Cache // owner before the running reload; nil if there was none
	offered bool   // a reload is about to replace the owner
	fresh   bool   // claimed in the running reload, which may still fail
	unlock  func() // nil while another process holds the file, see lock
}

// claim makes c, configured at place, the owner of its FILE, after checking it.
func (s *warmSet) claim(c *Cache, place string) error {
	path, err := checkWarm(c.cfg.Warm)
	if err != nil {
		return fmt.Errorf("warm %s: %w", c.cfg.Warm, err)
	}
	if s.isControl(path) {
		return fmt.Errorf("warm %s: control has this path: give each a path of its own", c.cfg.Warm)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.byPath[path]
	switch {
	case w == nil:
		w = &warmFile{}
		// In an upgrade (SIGUSR2) the old process holds the file until it ends;
		// our snapshots start then.
		if err := w.lock(path); err != nil && !(caddy.IsUpgrade() && errors.Is(err, errLocked)) {
			return fmt.Errorf("warm %s: %w", c.cfg.Warm, err)
		}
		s.byPath[path] = w
	case !w.offered:
		return fmt.Errorf("warm %s: the server block at %s has this file already: give each a FILE of its own", c.cfg.Warm, w.place)
	default:
		w.before = w.owner
	}
	w.owner, w.place, w.offered, w.fresh = c, place, false, true
	return nil
}

// errLocked says that another process holds the file.
var errLocked = errors.New("another process has this file: give each a FILE of its own, or stop that process")

// lock locks path against other processes, and removes the unfinished files of
// killed ones.
func (w *warmFile) lock(path string) error {
	unlock, err := lockFile(path + ".lock")
	if err != nil {
		return err
	}
	w.unlock = unlock
	for _, name := range leftovers(path) {
		if err := os.Remove(name); err != nil {
			return errors.Join(err, w.close())
		}
	}
	return nil
}

// close unlocks the file.
func (w *warmFile) close() error {
	if w.unlock != nil {
		w.unlock()
	}
	w.unlock = nil
	return nil
}

// leftovers lists the unfinished snapshots of path: PATH.NUMBER.tmp.
func leftovers(path string) (all []string) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil // unlikely: it was read a moment ago
	}
	for _, e := range entries {
		middle, ours := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		digits, unfinished := strings.CutSuffix(middle, ".tmp")
		if ours && unfinished && digits != "" && strings.Trim(digits, "0123456789") == "" && e.Type().IsRegular() {
			all = append(all, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return all
}

// offer lets the next instance claim the file of c.
func (s *warmSet) offer(c *Cache) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.byPath {
		w.fresh, w.before = false, nil
		if w.owner == c {
			w.offered = true
		}
	}
}

// rollback undoes the claims of a failed reload.
func (s *warmSet) rollback() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, w := range s.byPath {
		w.offered = false
		switch {
		case w.fresh && w.before != nil:
			w.owner, w.fresh, w.before = w.before, false, nil
		case w.fresh:
			delete(s.byPath, path)
			_ = w.close()
		}
	}
}

// release unlocks the file of c, unless another instance has claimed it.
func (s *warmSet) release(c *Cache) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, w := range s.byPath {
		if w.owner == c {
			delete(s.byPath, path)
			_ = w.close()
		}
	}
}

// has reports whether an instance keeps a snapshot at path.
func (s *warmSet) has(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byPath[realPath(path)] != nil
}

// mayWrite reports whether c owns its file. It retries the lock if another
// process held it before.
func (s *warmSet) mayWrite(c *Cache) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, w := range s.byPath {
		if w.owner == c {
			return w.unlock != nil || w.lock(path) == nil
		}
	}
	return false
}

// realPath resolves the links of the directory, so that a file has one path. It
// returns path if that fails.
func realPath(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return abs
	}
	return filepath.Join(dir, filepath.Base(abs))
}

// checkWarm returns the real path of a snapshot, or an error if it cannot be
// written there.
func checkWarm(path string) (string, error) {
	dir := filepath.Dir(path)
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("the directory %s does not exist: create it, or give another FILE", dir)
	case err != nil:
		return "", err
	case !st.IsDir():
		return "", fmt.Errorf("%s is not a directory: give another FILE", dir)
	}
	if err := replaceable(path); err != nil {
		return "", err
	}
	// Create a file to find out: ACLs, mounts and quotas also matter.
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp")
	if err != nil {
		return "", fmt.Errorf("the directory is not writable: %w", err)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return "", err
	}
	return realPath(path), nil
}

// replaceable says why a snapshot must not replace the file at path.
func replaceable(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("there is %s, which is not replaced: give the path of a file", kindOf(st.Mode()))
	}
	return nil
}

// kindOf names the kind of a file that is not a regular one.
func kindOf(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return "something that is not a file"
}

// openWarm opens the snapshot at path if it can be trusted.
func openWarm(path string) (*os.File, int64, error) {
	// Links are not followed, and opening a FIFO does not block.
	f, err := os.OpenFile(path, os.O_RDONLY|openSafely, 0)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case !st.Mode().IsRegular():
		err = fmt.Errorf("%w: it is %s", errWarm, kindOf(st.Mode()))
	default:
		err = ownedByTrusted(st)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

// isSnapshot returns an error if the file at path is not a snapshot of any
// version. A path without a file is fine.
func isSnapshot(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|openSafely, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var b [len(warmFamily)]byte
	n, err := io.ReadFull(f, b[:])
	if n > 0 && string(b[:n]) != warmFamily[:n] {
		return fmt.Errorf("the file there is not a snapshot and stays: remove it, or give another FILE")
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return err
}

// saveWarm writes the snapshot to a temporary file and renames that, so that the
// file at path is complete at all times.
func (c *Cache) saveWarm() error {
	path := c.cfg.Warm
	if err := errors.Join(replaceable(path), isSnapshot(path)); err != nil {
		return err
	}
	return disk.Replace(path, disk.Options{
		Temp:  filepath.Base(path) + ".*.tmp", // of mode warmFileMode
		Sync:  disk.SyncAll,
		Check: func() error { return replaceable(path) }, // it may have changed while we wrote
	}, func(f *os.File) error { return c.writeSnapshot(&syncing{f: f}) })
}

// syncing writes to a file and syncs it every warmSync bytes.
type syncing struct {
	f     *os.File
	dirty int
}

// Write implements io.Writer.
func (s *syncing) Write(b []byte) (int, error) {
	n, err := s.f.Write(b)
	if s.dirty += n; err == nil && s.dirty >= warmSync {
		s.dirty = 0
		err = s.f.Sync()
	}
	return n, err
}

// loadWarm fills the cache from the snapshot, if there is a usable one.
func (c *Cache) loadWarm() {
	log := clog.NewWithPlugin(c.name)
	n, err := c.readWarm()
	switch {
	case errors.Is(err, fs.ErrNotExist): // the first start
	case err != nil && n > 0:
		log.Warningf("warm %s: %v; %d entries were read and are kept", c.cfg.Warm, err, n)
	case err != nil:
		log.Warningf("warm %s: %v; starting with an empty cache", c.cfg.Warm, err)
	default:
		log.Infof("warm %s: %d entries", c.cfg.Warm, n)
	}
}

func (c *Cache) readWarm() (int, error) {
	f, size, err := openWarm(c.cfg.Warm)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	// Entries take less in the file than in memory, so a longer file is not a
	// snapshot, or holds more than fits.
	if limit := max(c.cfg.MaxMem, DefaultMaxMemory) * 4; size > limit {
		return 0, fmt.Errorf("%w: %d bytes, more than the %d that could fit", errWarm, size, limit)
	}
	return c.readSnapshot(f, size)
}
