package snapshotter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/disk"
	"github.com/penstock/penstock/soci/internal/checkpoint"
	"github.com/penstock/penstock/soci/internal/untar"
)

// store manages the directories of layers below the root.
type store struct {
	root string
	// synced is set if layers are flushed before they are recorded. Otherwise a
	// record counts only until the system reboots.
	synced bool
	boot   string // boot ID of the system, or "" if unknown
	sync   syncer
	lock   *os.File // of the root
}

// record is the content of a ready layer's layer.json, which is written last.
type record struct {
	Version int           `json:"version"`
	Chain   digest.Digest `json:"chain"`
	Digest  digest.Digest `json:"digest"` // of the blob
	Bytes   int64         `json:"bytes"`  // used on disk
	Inodes  int64         `json:"inodes"`
	// UserXattr is set if the layer marks opaque directories for mounts with the
	// userxattr option.
	UserXattr bool   `json:"user_xattr,omitempty"`
	Boot      string `json:"boot,omitempty"` // boot ID of the system, until the layer is flushed
}

const (
	recordVersion = 1
	recordName    = "layer.json"
	maxRecord     = 4 << 10 // bytes; ours have 400
	layerDir      = "fs"
)

func (s *store) snapshotsDir() string         { return filepath.Join(s.root, "snapshots") }
func (s *store) readyDir() string             { return filepath.Join(s.root, "ready") }
func (s *store) workDir() string              { return filepath.Join(s.root, "work") }
func (s *store) partsDir() string             { return filepath.Join(s.root, "parts") }
func (s *store) snapshot(id string) string    { return filepath.Join(s.snapshotsDir(), id) }
func (s *store) ready(c digest.Digest) string { return filepath.Join(s.readyDir(), fileName(c)) }
func (s *store) work(c digest.Digest) string  { return filepath.Join(s.workDir(), fileName(c)) }
func (s *store) part(c digest.Digest) string  { return filepath.Join(s.partsDir(), fileName(c)) }

// fileName returns the name of a digest's directory.
func fileName(c digest.Digest) string { return c.Algorithm().String() + "-" + c.Encoded() }

// digestOf is the inverse of fileName. It returns "" for other names.
func digestOf(name string) digest.Digest {
	algorithm, encoded, _ := strings.Cut(name, "-")
	c := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded)
	if c.Validate() != nil {
		return ""
	}
	return c
}

// openStore locks the root and creates its directories.
func openStore(root string, synced bool) (*store, error) {
	s := &store{root: root, synced: synced, boot: disk.BootID()}
	if s.boot == "" && !synced {
		return nil, errors.New("the system's boot ID cannot be read (/proc/sys/kernel/random/boot_id): without it, layers must be synced")
	}
	err := os.MkdirAll(root, 0o700)
	if err != nil {
		return nil, err
	}
	if s.lock, err = lockDir(root); err != nil {
		return nil, err
	}
	s.sync.flush = func() error { return untar.SyncFS(root) }
	for _, d := range []string{s.workDir(), s.partsDir(), s.readyDir(), s.snapshotsDir()} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(err, s.lock.Close())
		}
	}
	return s, nil
}

// lockDir makes sure that no other process uses the root. The kernel drops the
// lock when the process ends.
func lockDir(root string) (*os.File, error) {
	f, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, errors.Join(fmt.Errorf("%s is in use by another penstock-snapshotter: stop that one, or name another root", root), f.Close())
	case err != nil:
		return nil, errors.Join(fmt.Errorf("lock %s: %w", root, err), f.Close())
	}
	return f, nil
}

// begin returns the directory of a layer in work, with the files of an earlier
// attempt if there is a checkpoint. The layer itself goes to its subdirectory
// "fs".
func (s *store) begin(c digest.Digest) (string, error) {
	work := s.work(c)
	if !s.resumable(c) {
		if err := s.forget(c); err != nil {
			return "", err
		}
	}
	if err := os.Mkdir(work, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return work, nil
}

// resumable reports whether a layer in work has a checkpoint.
func (s *store) resumable(c digest.Digest) bool {
	_, err := os.Lstat(s.part(c))
	_, werr := os.Lstat(s.work(c))
	return err == nil && werr == nil
}

// forget removes a layer in work and its checkpoint.
func (s *store) forget(c digest.Digest) error {
	err := os.Remove(s.part(c))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(s.work(c)))
}

// finish makes the layer in work ready and returns its new directory.
func (s *store) finish(work string, r record) (string, error) {
	r.Version, r.Boot = recordVersion, s.boot
	if s.boot != "" { // so that a kill during the flush, which may be slow, does not lose the layer
		if err := writeRecord(work, r, false); err != nil {
			return "", err
		}
	}
	if s.synced {
		if err := s.flush(work, r); err != nil {
			return "", err
		}
	}
	to := s.ready(r.Chain)
	if err := os.RemoveAll(to); err != nil { // an unclaimed layer of an earlier run
		return "", err
	}
	return to, os.Rename(work, to)
}

// flush flushes a layer and rewrites its record, so that it counts after a
// reboot.
func (s *store) flush(dir string, r record) error {
	if err := s.sync.sync(); err != nil {
		return err
	}
	r.Boot = ""
	return writeRecord(dir, r, true)
}

// writeRecord writes or replaces the record in the directory of a layer.
func writeRecord(dir string, r record, flush bool) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	o := disk.Options{}
	if flush {
		o.Sync = disk.SyncFile
	}
	return disk.Replace(filepath.Join(dir, recordName), o, disk.Bytes(data))
}

// toSnapshot moves a ready layer to the directory of a snapshot. When it
// returns, the move survives a power cut, so a metadata store that is written
// afterwards never names a missing directory.
func (s *store) toSnapshot(from, id string) error {
	if err := os.Rename(from, s.snapshot(id)); err != nil {
		return err
	}
	if !s.synced {
		return nil
	}
	if err := errors.Join(disk.SyncDir(s.snapshotsDir()), disk.SyncDir(filepath.Dir(from))); err != nil {
		return errors.Join(err, os.Rename(s.snapshot(id), from))
	}
	return nil
}

// heal moves ready layers to their snapshots if the directory of the snapshot
// is missing. It returns the restored snapshots, and those still without a
// directory. keys are the names of all snapshots by ID.
func (s *store) heal(keys map[string]string, userXattr bool) (healed, missing []string, err error) {
	for id, key := range keys {
		if _, err := os.Lstat(s.snapshot(id)); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		chain := digest.Digest(key)
		if chain.Validate() != nil {
			missing = append(missing, key)
			continue
		}
		if r, err := s.read(s.ready(chain), userXattr); err != nil || r.Chain != chain {
			missing = append(missing, key)
			continue
		}
		if err := s.toSnapshot(s.ready(chain), id); err != nil {
			return nil, nil, err
		}
		healed = append(healed, key)
	}
	return healed, missing, nil
}

// drop removes the directory of a ready layer, after renaming it.
func (s *store) drop(dir string) error {
	away, err := s.moveAside(dir)
	if err != nil || away == "" {
		return err
	}
	return os.RemoveAll(away)
}

// moveAside renames the directory of a layer for removal and returns its new
// path, or "" if it does not exist.
func (s *store) moveAside(dir string) (string, error) {
	away := s.removalPath(filepath.Base(dir))
	switch err := os.Rename(dir, away); {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	}
	return away, nil
}

// moveAsideUnfinished is moveAside for a layer in work. It removes the
// checkpoint.
func (s *store) moveAsideUnfinished(c digest.Digest) (string, error) {
	if err := os.Remove(s.part(c)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return s.moveAside(s.work(c))
}

// orphans renames the directories of snapshots that are not among ids for
// removal, and returns their new paths.
func (s *store) orphans(ids map[string]string) ([]string, error) {
	entries, err := os.ReadDir(s.snapshotsDir())
	if err != nil {
		return nil, err
	}
	var away []string
	for _, e := range entries {
		if _, known := ids[e.Name()]; known {
			continue
		}
		to := s.removalPath(e.Name())
		if err := os.Rename(s.snapshot(e.Name()), to); err != nil {
			return away, err
		}
		away = append(away, to)
	}
	return away, nil
}

// removalPath returns a new path in work for a directory that is to be removed.
func (s *store) removalPath(name string) string {
	return filepath.Join(s.workDir(), fmt.Sprintf("removed-%d-%s", time.Now().UnixNano(), name))
}

// errRecord says that a directory is not a ready layer.
var errRecord = errors.New("no usable record")

// parseRecord reads layer.json.
func parseRecord(data []byte) (record, error) {
	var r record
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, fmt.Errorf("%w: %w", errRecord, err)
	}
	switch {
	case d.More():
		return r, fmt.Errorf("%w: data after its end", errRecord)
	case r.Version != recordVersion:
		return r, fmt.Errorf("%w: version %d", errRecord, r.Version)
	case r.Chain.Validate() != nil, r.Digest.Validate() != nil:
		return r, fmt.Errorf("%w: bad digest", errRecord)
	case r.Bytes < 0, r.Inodes < 1:
		return r, fmt.Errorf("%w: %d bytes in %d inodes", errRecord, r.Bytes, r.Inodes)
	}
	return r, nil
}

// read reads the record of a directory. It fails unless the directory is a
// ready layer.
func (s *store) read(dir string, userXattr bool) (record, error) {
	name := filepath.Join(dir, recordName)
	if fi, err := os.Lstat(name); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxRecord {
		return record{}, errRecord
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return record{}, err
	}
	r, err := parseRecord(data)
	if err != nil {
		return r, err
	}
	if r.Boot != "" && r.Boot != s.boot {
		return r, fmt.Errorf("%w: not flushed before the system went down", errRecord)
	}
	if r.UserXattr != userXattr {
		return r, fmt.Errorf("%w: made for other mounts", errRecord)
	}
	if fi, err := os.Lstat(filepath.Join(dir, layerDir)); err != nil || !fi.IsDir() {
		return r, errRecord
	}
	return r, nil
}

// recover moves layers to ready that an earlier run was moving: to a snapshot
// whose ID the metadata store does not know, or from work with a record. It
// returns the layers in work that have a checkpoint, and removes the others.
func (s *store) recover(ids map[string]string, userXattr bool) ([]digest.Digest, error) {
	entries, err := os.ReadDir(s.snapshotsDir())
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if _, known := ids[e.Name()]; known || strings.HasPrefix(e.Name(), "new-") {
			continue
		}
		// Cleanup removes directories that are not layers.
		if _, err := s.toReady(s.snapshot(e.Name()), userXattr); err != nil {
			return nil, err
		}
	}
	return s.recoverWork(userXattr)
}

// toReady moves a directory to ready if it is a whole layer, and reports
// whether it did.
func (s *store) toReady(dir string, userXattr bool) (bool, error) {
	r, err := s.read(dir, userXattr)
	if err != nil {
		return false, nil //nolint:nilerr // it is not a layer
	}
	switch err := os.Rename(dir, s.ready(r.Chain)); {
	case errors.Is(err, fs.ErrExist):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, nil
}

func (s *store) recoverWork(userXattr bool) (unfinished []digest.Digest, err error) {
	entries, err := os.ReadDir(s.workDir())
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		dir, c := filepath.Join(s.workDir(), e.Name()), digestOf(e.Name())
		moved, err := s.toReady(dir, userXattr)
		switch {
		case err != nil:
			return nil, err
		case moved:
		case c != "" && checkpoint.Usable(s.part(c)):
			unfinished = append(unfinished, c)
		default:
			if err := os.RemoveAll(dir); err != nil {
				return nil, fmt.Errorf("leftovers of an earlier run in work: %w", err)
			}
		}
	}
	parts, err := os.ReadDir(s.partsDir())
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if !slices.Contains(unfinished, digestOf(p.Name())) {
			if err := os.RemoveAll(filepath.Join(s.partsDir(), p.Name())); err != nil {
				return nil, fmt.Errorf("leftovers of an earlier run in parts: %w", err)
			}
		}
	}
	return unfinished, nil
}

// scan returns the ready layers and removes other directories.
func (s *store) scan(userXattr bool) ([]record, error) {
	entries, err := os.ReadDir(s.readyDir())
	if err != nil {
		return nil, err
	}
	var out []record
	for _, e := range entries {
		dir := filepath.Join(s.readyDir(), e.Name())
		r, err := s.read(dir, userXattr)
		if err == nil && fileName(r.Chain) == e.Name() {
			if s.synced && r.Boot != "" {
				if err := s.flush(dir, r); err != nil {
					return nil, err
				}
			}
			out = append(out, r)
			continue
		}
		if err := s.drop(dir); err != nil {
			return nil, err
		}
	}
	return out, nil
}
