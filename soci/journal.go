package soci

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

	"github.com/penstock/penstock/soci/internal/untar"
)

// journalVersion is of the form of the lines below. Another one means: begin anew.
const journalVersion = 2

// entry is one line of a journal. The kinds are told apart by the field that is set.
type entry struct {
	Version int    `json:"version,omitempty"` // first line
	Boot    string `json:"boot,omitempty"`    // with Version or Layer: the running system
	// Layer is finished and verified: Dir, beside the journal, holds it.
	Layer *Layer          `json:"layer,omitempty"`
	Dir   string          `json:"dir,omitempty"`
	State json.RawMessage `json:"state,omitempty"` // untar's
	// Synced: what the line says was flushed to the disk before the line was.
	Synced bool `json:"synced,omitempty"`
	// Merging: the directories above are being changed, and no longer what they say.
	Merging bool `json:"merging,omitempty"`
	// Moving: entries of the tree that are being moved into the target, one by one.
	Moving []moved `json:"moving,omitempty"`
}

// moved is an entry of the target that a commit put there.
type moved struct {
	Name []byte `json:"name"`
	Ino  uint64 `json:"ino"`
}

// journal says what of a stage is finished. Lines are appended, each by one write.
//
// Which lines an opener may believe: a process that is killed takes nothing with it
// that it has written, so as long as the system runs, all of them. After a power cut
// or a crash of the system, files may be torn that the journal calls finished, unless
// they were flushed first. The boot ID tells the two apart.
type journal struct {
	f    *os.File
	boot string
	sync bool // flush each line
}

// readJournal returns the layers that may be used again, by directory name, and what
// an unfinished commit has moved.
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
	// maxState bounds what is kept of one finished layer, in bytes: saving it takes a few
	// times that much memory. 100,000 directories that no entry describes fit.
	maxState = 8 << 20
	// maxJournal bounds a journal in bytes: 127 layers of 8 MiB.
	maxJournal = 1 << 30
)

// parseJournal reads lines up to the first that is not whole.
func parseJournal(r io.Reader, boot string) (map[string]entry, []moved, error) {
	layers := make(map[string]entry)
	var moving []moved
	in := bufio.NewReader(io.LimitReader(r, maxJournal))
	for first := true; ; first = false {
		line, err := in.ReadBytes('\n')
		var e entry
		if err == io.EOF || json.Unmarshal(bytes.TrimSpace(line), &e) != nil || first && e.Version != journalVersion {
			return layers, moving, nil //nolint:nilerr // a torn line is the last one, and as if it had never been
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

// newJournal begins a journal with what is known already, in place of the old one.
func newJournal(path, boot string, sync bool, known map[string]entry) (*journal, error) {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{f: f, boot: boot, sync: sync}
	err = j.write(entry{Version: journalVersion, Boot: boot})
	for _, e := range known {
		if err == nil {
			err = j.write(e)
		}
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
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

// finished records a layer. What the stage holds has been flushed if j.sync is set.
func (j *journal) finished(l *Layer, dir string, u *untar.Layer) error {
	state, err := u.Save(maxState)
	if err != nil {
		return err
	}
	return j.write(entry{Boot: j.boot, Layer: l, Dir: dir, State: state, Synced: j.sync})
}

// undoMoves takes back what an unfinished commit has put into the target. Only what
// is still the same file goes: everything else is somebody else's.
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

// bootID names the running system; "" when there is no telling.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// keepOnly removes everything of a directory but these names.
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
