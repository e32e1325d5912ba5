package stage

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/penstock/penstock/internal/disk"
	"github.com/penstock/penstock/soci/internal/untar"
)

// journalVersion is the format version of a journal. Journals with another
// version are ignored.
const journalVersion = 2

// entry is one line of a journal. Its kind is given by the field that is set.
type entry struct {
	Version int    `json:"version,omitempty"` // first line
	Boot    string `json:"boot,omitempty"`    // with Version or Layer: the boot ID of the system
	// Layer describes a finished layer, which lies in the directory Dir of
	// layers/.
	Layer json.RawMessage `json:"layer,omitempty"`
	Dir   string          `json:"dir,omitempty"`
	State json.RawMessage `json:"state,omitempty"` // saved by untar
	// Synced is set if the layer was flushed to the disk before this line.
	Synced bool `json:"synced,omitempty"`
	// Merging invalidates the layers of all earlier lines, because their
	// directories are being changed.
	Merging bool `json:"merging,omitempty"`
	// Moving lists the entries of the tree that are being moved into the
	// target.
	Moving []moved `json:"moving,omitempty"`
}

// moved is an entry of the target that a commit put there.
type moved struct {
	Name []byte `json:"name"`
	Ino  uint64 `json:"ino"`
}

// journal records the finished layers of a stage. Lines are appended, each by
// one write.
//
// A reader trusts all lines that were written since the system booted, because a
// killed process loses no written data. After a power cut or a crash of the
// system the files of a finished layer may be torn, so the reader then trusts
// only lines whose layer was flushed first (Synced). The boot ID tells the two
// cases apart.
type journal struct {
	f    *os.File
	boot string
	sync bool // flush each line
}

// readJournal returns the finished layers, by directory name, and the moves of
// an interrupted commit.
func readJournal(path, boot string) (map[string]entry, []moved, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	return parseJournal(f, boot)
}

const (
	// MaxState bounds the saved state of one finished layer, in bytes. Saving
	// it takes a few times as much memory. It has room for about 100,000
	// directories for which the layer has no entry.
	MaxState = 8 << 20
	// maxJournal bounds a journal in bytes: 127 layers of 8 MiB.
	maxJournal = 1 << 30
)

// parseJournal reads lines up to the first one that is incomplete or malformed.
func parseJournal(r io.Reader, boot string) (map[string]entry, []moved, error) {
	layers := make(map[string]entry)
	var moving []moved
	in := bufio.NewReader(io.LimitReader(r, maxJournal))
	for first := true; ; first = false {
		line, err := in.ReadBytes('\n')
		var e entry
		if err == io.EOF || json.Unmarshal(bytes.TrimSpace(line), &e) != nil || first && e.Version != journalVersion {
			return layers, moving, nil //nolint:nilerr // a torn line is the last one and counts as never written
		}
		if err != nil {
			return nil, nil, err
		}
		current := boot != "" && e.Boot == boot
		switch {
		case e.Merging:
			clear(layers)
		case len(e.Moving) > 0:
			moving = append(moving, e.Moving...)
		case e.Layer != nil && (current || e.Synced) && filepath.Base(e.Dir) == e.Dir && e.Dir != "." && e.Dir != "..":
			layers[e.Dir] = e
		}
	}
}

// newJournal replaces the journal at path by one that holds the known layers.
func newJournal(path, boot string, sync bool, known map[string]entry) (*journal, error) {
	j := &journal{boot: boot, sync: sync}
	_, err := disk.ReplaceOpen(path, disk.Options{}, func(f *os.File) error {
		j.f = f
		err := j.write(entry{Version: journalVersion, Boot: boot})
		for _, e := range known {
			if err == nil {
				err = j.write(e)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return j, nil
}

// write appends one line.
func (j *journal) write(e entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := j.f.Write(append(line, '\n')); err != nil {
		return err
	}
	if j.sync {
		return j.f.Sync()
	}
	return nil
}

// finished records a layer, which the caller has flushed if j.sync is set.
func (j *journal) finished(result []byte, dir string, l *untar.Layer) error {
	state, err := l.Save(MaxState)
	if err != nil {
		return err
	}
	return j.write(entry{Boot: j.boot, Layer: result, Dir: dir, State: state, Synced: j.sync})
}

// undoMoves removes the entries that an interrupted commit has put into the
// target. An entry whose inode differs was put there by another program and
// stays.
func undoMoves(target string, moves []moved) error {
	var errs error
	for _, m := range moves {
		p := filepath.Join(target, string(m.Name))
		if fi, err := os.Lstat(p); err == nil && filepath.Base(p) == string(m.Name) && inode(fi) == m.Ino {
			errs = errors.Join(errs, untar.RemoveAll(p))
		}
	}
	return errs
}

// keepOnly removes every entry of a directory except for these names.
func keepOnly(dir string, names ...string) error {
	have, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs error
	for _, n := range have {
		if !slices.Contains(names, n.Name()) {
			errs = errors.Join(errs, untar.RemoveAll(filepath.Join(dir, n.Name())))
		}
	}
	return errs
}
