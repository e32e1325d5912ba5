package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/inflate/ztoc"
)

const ztocUsage = `usage: penstock-pull ztoc --out FILE [flags] BLOB

Writes the index of a gzip layer as SOCI's zTOC. BLOB is the layer as the registry stores it, in a file.

  --out FILE       the zTOC, a new file
  --indexes DIR    take the index that a pull with --indexes DIR has learned, if there is one of this layer
                   (default: one is made while BLOB is read)
  --version 1|2    of the list of checkpoints (default: 2)

Exit code: 0 done, 1 failed (nothing is left behind), 2 wrong command line.
`

// ztocCommand is a parsed command line.
type ztocCommand struct {
	out, indexes, blob string
	version            ztoc.Version
}

func parseZtoc(args []string) (*ztocCommand, error) {
	c := &ztocCommand{}
	f := flag.NewFlagSet("penstock-pull ztoc", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.out, "out", "", "")
	f.StringVar(&c.indexes, "indexes", "", "")
	version := f.Int("version", 2, "")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, errHelp
		}
		return nil, fmt.Errorf("%w (see penstock-pull ztoc --help)", err)
	}
	switch {
	case c.out == "":
		return nil, errors.New("name the file to write: --out FILE")
	case f.NArg() != 1:
		return nil, fmt.Errorf("name one file that holds a gzip layer, not %d (flags come before it)", f.NArg())
	}
	switch *version {
	case 1:
		c.version = ztoc.V1
	case 2: //nolint:mnd // the number of the version
		c.version = ztoc.V2
	default:
		return nil, fmt.Errorf("there is no version %d of a zTOC's checkpoints: use 1 or 2", *version)
	}
	c.blob = f.Arg(0)
	return c, nil
}

func runZtoc(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parseZtoc(args)
	switch {
	case errors.Is(err, errHelp):
		fmt.Fprint(stdout, ztocUsage)
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "penstock-pull: %s\n", oneLine(err))
		return exitUsage
	}
	z, err := c.export(ctx)
	if err == nil {
		_, err = fmt.Fprintf(stdout, "%s: %d spans, %d files of layer %s, DiffID %s\n", c.out, len(z.SpanDigests), len(z.Files), z.Index.Digest, z.Index.DiffID)
	}
	if err != nil {
		fmt.Fprintf(stderr, "penstock-pull: %s\n", oneLine(err))
		return exitFailed
	}
	return exitOK
}

// export reads the layer three times: for its digest, its files, and the digests of spans.
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

// learned returns the index that a pull has left of a layer; nil if there is none.
func (c *ztocCommand) learned(d digest.Digest) (*index.Index, error) {
	if c.indexes == "" {
		return nil, nil
	}
	name := filepath.Join(c.indexes, soci.IndexName(d))
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

// decode reads a layer to its end, and returns its files and its index: the one that is given,
// if all of it is so, or a new one.
func decode(ctx context.Context, blob io.Reader, at index.Blob, learned *index.Index) ([]ztoc.File, *index.Index, error) {
	rec := index.NewRecorder(0)
	r, err := inflate.NewReader(reader{ctx, blob}, inflate.Options{Workers: runtime.GOMAXPROCS(0), Index: learned, Record: rec})
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	if r.Format() != inflate.Gzip {
		return nil, nil, fmt.Errorf("it is compressed by %v, and a zTOC is of a gzip layer", r.Format())
	}
	sum := digest.Canonical.Digester()
	count := &counter{w: sum.Hash()}
	tar := io.TeeReader(r, count)
	files, err := ztoc.Files(tar)
	if err == nil {
		_, err = io.Copy(io.Discard, tar) // padding belongs to the DiffID
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

// reader ends with a context.
type reader struct {
	ctx context.Context //nolint:containedctx // of the command, which ends with it
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// counter counts what passes.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
