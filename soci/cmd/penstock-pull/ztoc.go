package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/soci/internal/indexdir"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/inflate/ztoc"
)

var ztocHelp = cli.Help{
	Usage: []string{"--out FILE [flags] BLOB"},
	About: "Writes the index of a gzip layer as SOCI's zTOC. BLOB is a file with the layer as the registry stores it.",
	Exit:  "0 done, 1 failed (no file is left behind), 2 wrong command line",
}

// ztocCommand is a parsed command line.
type ztocCommand struct {
	*cli.Command
	out, indexes, blob string
	version            ztoc.Version
}

func newZtoc() (c *ztocCommand, version *int) {
	c = &ztocCommand{Command: cli.New("penstock-pull ztoc", ztocHelp)}
	f := c.Group("Flags")
	f.StringVar(&c.out, "out", "", "new `FILE` for the zTOC")
	f.StringVar(&c.indexes, "indexes", "", "`DIR` of indexes that earlier pulls with --indexes have recorded (default: make an index while reading BLOB)")
	version = f.Int("version", 2, "`1|2`, the version of the list of checkpoints")
	return c, version
}

func parseZtoc(args []string, s cli.Streams) (*ztocCommand, error) {
	c, version := newZtoc()
	rest, err := c.Parse(args, s.Out)
	switch {
	case err != nil:
		return nil, err
	case c.out == "":
		return nil, cli.Usage(errors.New("name the file to write: --out FILE"))
	case len(rest) != 1:
		return nil, cli.Usage(fmt.Errorf("name one file that holds a gzip layer, not %d", len(rest)))
	}
	switch *version {
	case 1:
		c.version = ztoc.V1
	case 2: //nolint:mnd // the number of the version
		c.version = ztoc.V2
	default:
		return nil, cli.Usage(fmt.Errorf("a zTOC's list of checkpoints has no version %d: use 1 or 2", *version))
	}
	c.blob = rest[0]
	c.PrintOld(s.Err)
	return c, nil
}

func runZtoc(ctx context.Context, args []string, s cli.Streams) error {
	c, err := parseZtoc(args, s)
	if err != nil {
		return err
	}
	z, err := c.export(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Out, "%s: %d spans, %d files of layer %s, DiffID %s\n", c.out, len(z.SpanDigests), len(z.Files), z.Index.Digest, z.Index.DiffID)
	return err
}

// export reads the layer three times: for its digest, for its files, and for
// the digests of its spans.
func (c *ztocCommand) export(ctx context.Context) (*ztoc.Ztoc, error) {
	blob, err := os.Open(c.blob)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	z, err := c.make(ctx, blob)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.blob, err)
	}
	data, err := z.Marshal(c.version)
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(c.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	_, err = out.Write(data)
	if err = errors.Join(err, out.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(c.out))
	}
	return z, nil
}

func (c *ztocCommand) make(ctx context.Context, blob *os.File) (*ztoc.Ztoc, error) {
	d, err := digest.FromReader(reader{ctx, blob})
	if err != nil {
		return nil, err
	}
	at := index.Blob{Digest: d.String()}
	if at.Size, err = blob.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	learned, err := c.learned(d)
	if err != nil {
		return nil, err
	}
	files, x, err := decode(ctx, io.NewSectionReader(blob, 0, at.Size), at, learned)
	if err != nil {
		return nil, err
	}
	z, err := ztoc.New(x, blob)
	if err != nil {
		return nil, err
	}
	z.Files = files
	return z, nil
}

// learned returns the index of a layer that an earlier pull has recorded, or nil
// if there is no such index.
func (c *ztocCommand) learned(d digest.Digest) (*index.Index, error) {
	if c.indexes == "" {
		return nil, nil
	}
	name := filepath.Join(c.indexes, indexdir.Name(d))
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	x, err := index.Load(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return x, nil
}

// decode reads a layer to its end and returns its files and its index. It returns
// the learned index if it agrees with the layer, and otherwise a new one.
func decode(ctx context.Context, blob io.Reader, at index.Blob, learned *index.Index) ([]ztoc.File, *index.Index, error) {
	rec := index.NewRecorder(0)
	r, err := inflate.NewReader(reader{ctx, blob}, inflate.Options{Workers: runtime.GOMAXPROCS(0), Index: learned, Record: rec})
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	if r.Format() != inflate.Gzip {
		return nil, nil, fmt.Errorf("compressed by %v, but a zTOC describes a gzip layer", r.Format())
	}
	sum := digest.Canonical.Digester()
	count := &counter{w: sum.Hash()}
	tar := io.TeeReader(r, count)
	files, err := ztoc.Files(tar)
	if err == nil {
		_, err = io.Copy(io.Discard, tar) // the DiffID covers the padding behind the archive
	}
	if err != nil {
		return nil, nil, err
	}
	at.DiffID, at.Out = sum.Digest().String(), count.n
	if learned != nil && learned.Blob == at && !r.IndexWrong() {
		return files, learned, nil
	}
	x, err := rec.Index(at)
	return files, x, err
}

// reader is an io.Reader that fails when its context ends.
type reader struct {
	ctx context.Context //nolint:containedctx // the command's, which outlives the reader
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// counter counts the bytes written to w.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
