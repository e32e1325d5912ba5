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

// store is the disk below the root: where layers grow and wait.
type store struct {
	root string
	// synced says that layers are flushed before they are recorded. If not, a record
	// counts only until the machine boots again.
	synced bool
	boot   string // of the machine; "" when there is no telling
	sync   syncer
	lock   *os.File // held while the root is ours
}

// record is what layer.json says of a ready layer. It is written last.
type record struct {
	Version int           `json:"version"`
	Chain   digest.Digest `json:"chain"`
	Digest  digest.Digest `json:"digest"` // of the blob
	Bytes   int64         `json:"bytes"`  // of disk
	Inodes  int64         `json:"inodes"`
	// UserXattr is the form of overlayfs' marks in it.
	UserXattr bool   `json:"user_xattr,omitempty"`
	Boot      string `json:"boot,omitempty"` // of the machine, while nothing is flushed
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

// fileName is a digest as the name of a directory.
func fileName(c digest.Digest) string { return c.Algorithm().String() + "-" + c.Encoded() }

// digestOf is the inverse of fileName; "" if there is none.
func digestOf(name string) digest.Digest {
	algorithm, encoded, _ := strings.Cut(name, "-")
	c := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded)
	if c.Validate() != nil {
		return ""
	}
	return c
}

// openStore makes the directories.
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

// lockDir makes sure that no other process uses the root. The lock ends with the
// process, however that ends.
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

// begin returns the directory in work of a layer, which goes to its "fs": what is to be
// gone on with, or a new one.
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

// resumable reports whether a layer is in work, and how far is known.
func (s *store) resumable(c digest.Digest) bool {
	_, err := os.Lstat(s.part(c))
	_, werr := os.Lstat(s.work(c))
	return err == nil && werr == nil
}

// forget removes what there is of a layer in work.
func (s *store) forget(c digest.Digest) error {
	err := os.Remove(s.part(c))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(s.work(c)))
}

// finish makes the layer in work ready and returns its directory.
func (s *store) finish(work string, r record) (string, error) {
	r.Version, r.Boot = recordVersion, s.boot
	if s.boot != "" { // who is killed while the disk is flushed, which may take long, loses nothing
		if err := writeRecord(work, r, false); err != nil {
			return "", err
		}
	}
	if s.synced {
		if err := s.settle(work, r); err != nil {
			return "", err
		}
	}
	to := s.ready(r.Chain)
	if err := os.RemoveAll(to); err != nil { // of a run before, never claimed
		return "", err
	}
	return to, os.Rename(work, to)
}

// settle flushes a layer and makes its record one that outlives the running system.
func (s *store) settle(dir string, r record) error {
	if err := s.sync.sync(); err != nil {
		return err
	}
	r.Boot = ""
	return writeRecord(dir, r, true)
}

// writeRecord puts a record into the directory of a layer, in place of the one there.
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

// take moves a ready layer to the directory of a snapshot. When it returns, the move outlives a power
// cut, so that a metadata store that is written afterwards never names a directory that is not there.
func (s *store) take(from, id string) error {
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

// heal moves ready layers to the snapshots that the metadata store has of them, where the directory
// of the snapshot is missing, and returns the snapshots that stay without one. keys are the names of
// all snapshots by ID.
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
		if err := s.take(s.ready(chain), id); err != nil {
			return nil, nil, err
		}
		healed = append(healed, key)
	}
	return healed, missing, nil
}

// drop removes the directory of a ready layer. It is gone at once, its files soon.
func (s *store) drop(dir string) error {
	away, err := s.setAway(dir)
	if err != nil || away == "" {
		return err
	}
	return os.RemoveAll(away)
}

// setAway moves the directory of a layer out of the way and returns where it is; "" if there
// was none.
func (s *store) setAway(dir string) (string, error) {
	away := s.away(filepath.Base(dir))
	switch err := os.Rename(dir, away); {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	}
	return away, nil
}

// setAwayBegun is setAway of a layer in work.
func (s *store) setAwayBegun(c digest.Digest) (string, error) {
	if err := os.Remove(s.part(c)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return s.setAway(s.work(c))
}

// orphans moves the directories of snapshots that are not among ids out of the way
// and returns where they are now.
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
		to := s.away(e.Name())
		if err := os.Rename(s.snapshot(e.Name()), to); err != nil {
			return away, err
		}
		away = append(away, to)
	}
	return away, nil
}

// away is a new name in work for something to be removed.
func (s *store) away(name string) string {
	return filepath.Join(s.workDir(), fmt.Sprintf("removed-%d-%s", time.Now().UnixNano(), name))
}

// errRecord: a directory is no ready layer.
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
		return r, fmt.Errorf("%w: something after its end", errRecord)
	case r.Version != recordVersion:
		return r, fmt.Errorf("%w: version %d", errRecord, r.Version)
	case r.Chain.Validate() != nil, r.Digest.Validate() != nil:
		return r, fmt.Errorf("%w: bad digest", errRecord)
	case r.Bytes < 0, r.Inodes < 1:
		return r, fmt.Errorf("%w: %d bytes in %d inodes", errRecord, r.Bytes, r.Inodes)
	}
	return r, nil
}

// read reads the record of a directory that may be a ready layer.
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
		return r, fmt.Errorf("%w: not flushed before the machine went down", errRecord)
	}
	if r.UserXattr != userXattr {
		return r, fmt.Errorf("%w: made for other mounts", errRecord)
	}
	if fi, err := os.Lstat(filepath.Join(dir, layerDir)); err != nil || !fi.IsDir() {
		return r, errRecord
	}
	return r, nil
}

// recover takes layers to ready that were on their way when the daemon ended: from ready to
// a snapshot, whose ID the metadata store does not know; from work to ready, with a record.
// It returns the layers in work that can be gone on with, and removes all else there.
func (s *store) recover(ids map[string]string, userXattr bool) ([]digest.Digest, error) {
	entries, err := os.ReadDir(s.snapshotsDir())
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if _, known := ids[e.Name()]; known || strings.HasPrefix(e.Name(), "new-") {
			continue
		}
		// What is no layer Cleanup removes.
		if _, err := s.toReady(s.snapshot(e.Name()), userXattr); err != nil {
			return nil, err
		}
	}
	return s.recoverWork(userXattr)
}

// toReady moves a directory to ready if it is a whole layer, and reports whether it has.
func (s *store) toReady(dir string, userXattr bool) (bool, error) {
	r, err := s.read(dir, userXattr)
	if err != nil {
		return false, nil //nolint:nilerr // it is no layer
	}
	switch err := os.Rename(dir, s.ready(r.Chain)); {
	case errors.Is(err, fs.ErrExist):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, nil
}

func (s *store) recoverWork(userXattr bool) (begun []digest.Digest, err error) {
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
			begun = append(begun, c)
		default:
			if err := os.RemoveAll(dir); err != nil {
				return nil, fmt.Errorf("what an earlier run left in work: %w", err)
			}
		}
	}
	parts, err := os.ReadDir(s.partsDir())
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if !slices.Contains(begun, digestOf(p.Name())) {
			if err := os.RemoveAll(filepath.Join(s.partsDir(), p.Name())); err != nil {
				return nil, fmt.Errorf("what an earlier run left in parts: %w", err)
			}
		}
	}
	return begun, nil
}

// scan returns the ready layers and removes what is none.
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
				if err := s.settle(dir, r); err != nil {
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
