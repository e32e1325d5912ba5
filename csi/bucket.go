package csi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"math"
	"os"
	"strings"
	"time"

	"github.com/penstock/penstock/csi/internal/fs"
	"github.com/penstock/penstock/csi/internal/s3store"
	"github.com/penstock/penstock/csi/internal/tree"
	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/s3"
)

// minMemory is the least budget that a bucket is opened with: four parts of 8 MiB, below which parallel readers wait
// for each other.
const minMemory = 32 << 20

// BucketOptions say which bucket to show, and how.
type BucketOptions struct {
	Bucket string // name or access-point ARN
	Prefix string // show only what is below; a "/" at its end is added
	// AllowEmpty opens a bucket although nothing is below Prefix. Without it that is an error, since a wrong prefix looks
	// the same.
	AllowEmpty bool
	S3         S3Options
	Store      Store // replaces S3 if set; Bucket is then only a name for messages

	// Memory bounds the bytes that are buffered for reads. 0: the budget that the process has from its memory limit.
	Memory int64
	// MetadataTTL is how long what is known of a name is reused, also by opens. 0: one second, but an open always asks;
	// negative: never.
	MetadataTTL time.Duration

	UID, GID int           // owner of all files. 0: the user and group of this process
	FileMode iofs.FileMode // permissions of files. 0: 0444
	DirMode  iofs.FileMode // permissions of directories. 0: 0555

	Log *slog.Logger // nil is silent
}

// Validate returns what is wrong with the options, and how to put it right.
func (o BucketOptions) Validate() error {
	_, prefixOK := tree.CleanPrefix(o.Prefix)
	switch {
	case o.Bucket == "" && o.Store == nil:
		return errors.New("no bucket: name one")
	case !prefixOK:
		return fmt.Errorf("prefix %q: no key can start with it; use at most 1023 bytes and no NUL", o.Prefix)
	case o.Memory < 0 || o.Memory > 0 && o.Memory < minMemory:
		return fmt.Errorf("memory %d bytes: use at least %d, or 0 for a share of the memory limit", o.Memory, minMemory)
	case o.UID < 0 || o.GID < 0 || int64(o.UID) >= math.MaxUint32 || int64(o.GID) >= math.MaxUint32:
		return fmt.Errorf("owner %d:%d: use ids from 0 to %d", o.UID, o.GID, uint32(math.MaxUint32-1))
	case o.FileMode&^iofs.ModePerm != 0 || o.DirMode&^iofs.ModePerm != 0:
		return fmt.Errorf("modes %#o and %#o: use permission bits alone (at most 0777)", o.FileMode, o.DirMode)
	}
	if o.Store == nil {
		if err := s3.CheckBucket(o.Bucket); err != nil {
			return err
		}
	}
	return o.S3.Validate()
}

// core returns the options of the core.
func (o BucketOptions) core() fs.Options {
	prefix, _ := tree.CleanPrefix(o.Prefix)
	uid, gid := o.UID, o.GID
	if uid == 0 {
		uid = os.Getuid()
	}
	if gid == 0 {
		gid = os.Getgid()
	}
	return fs.Options{
		Prefix: prefix, MetadataTTL: o.MetadataTTL,
		UID: uint32(uid), GID: uint32(gid), //nolint:gosec // Validate has checked the range
		FileMode: uint32(o.FileMode.Perm()), DirMode: uint32(o.DirMode.Perm()),
	}
}

// name is how messages and the mount table call the bucket.
func (o BucketOptions) name() string {
	name := o.Bucket
	if name == "" {
		name = "store"
	}
	if o.Prefix != "" {
		name += "/" + strings.TrimSuffix(o.Prefix, "/")
	}
	return name
}

// Bucket is an open bucket. It can be read as an io/fs.FS; see [Mount] for the kernel. Close it.
type Bucket struct {
	name  string
	core  *fs.FS
	close []func() error // in the order to call them
}

// OpenBucket opens a bucket and asks it once, so that what is wrong shows here: an error matches io/fs.ErrNotExist for a
// bucket that is not there, io/fs.ErrPermission for one that may not be listed.
func OpenBucket(ctx context.Context, opts BucketOptions) (*Bucket, error) {
	return openBucket(ctx, opts, shared{}, nil)
}

// shared is what the buckets of one process share; the zero value is a bucket by itself.
type shared struct {
	engine *ranges.Engine
	limits *fs.Limits
}

// openBucket opens a bucket with what it shares with others, and with credentials, nil for those of the options.
func openBucket(ctx context.Context, opts BucketOptions, common shared, creds *rotating) (*Bucket, error) {
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	b := &Bucket{name: opts.name()}
	store, err := b.open(ctx, opts, &common, creds)
	if err == nil {
		err = reach(ctx, store, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %q: %w", b.name, errors.Join(err, b.Close()))
	}
	core := opts.core()
	core.Limits = common.limits
	b.core = fs.New(store, core)
	return b, nil
}

// open makes the store, and what is not shared, and notes what is to be closed.
func (b *Bucket) open(ctx context.Context, opts BucketOptions, common *shared, creds *rotating) (fs.Store, error) {
	if common.limits == nil {
		common.limits = fs.NewLimits(cmp.Or(opts.Memory, budget.Process().Limit()))
	}
	if opts.Store != nil {
		return adapter{opts.Store}, nil
	}
	client, err := opts.S3.newClient(ctx, opts.Log, creds)
	if err != nil {
		return nil, err
	}
	b.close = append(b.close, client.Close)
	if common.engine == nil {
		if common.engine, err = newEngine(opts.Memory, opts.S3.Outage, opts.Log); err != nil {
			return nil, err
		}
		b.close = append([]func() error{common.engine.Close}, b.close...) // before the client that it uses
	}
	return s3store.New(client, common.engine, opts.Bucket), nil
}

// newEngine makes the range engine: with a budget of its own, or with that of the process.
func newEngine(memory int64, outage time.Duration, log *slog.Logger) (*ranges.Engine, error) {
	o := ranges.Options{Retry: ranges.RetryPolicy{Outage: outage}, Log: log}
	if memory > 0 {
		o.Budget = budget.New(memory)
	}
	return ranges.New(o)
}

// reach asks the store for one key. A prefix below which there is none is an error that says what may be wrong with it.
func reach(ctx context.Context, store fs.Store, opts BucketOptions) error {
	prefix := opts.core().Prefix
	for _, err := range store.List(ctx, prefix, 1) {
		return err
	}
	switch {
	case opts.AllowEmpty:
		return nil
	case prefix == "":
		if opts.Log != nil {
			opts.Log.Warn("the bucket is empty", "bucket", opts.Bucket)
		}
		return nil
	}
	object := strings.TrimSuffix(prefix, "/")
	_, err := store.Stat(ctx, object)
	return &emptyError{prefix, err == nil}
}

// emptyError is a prefix below which there is nothing.
type emptyError struct {
	prefix string
	object bool // there is an object of that name
}

// Unwrap says that something is missing.
func (e *emptyError) Unwrap() error { return iofs.ErrNotExist }

// Error says what is missing and what to try.
func (e *emptyError) Error() string {
	parts := strings.FieldsFunc(e.prefix, func(r rune) bool { return r == '/' })
	likely := strings.Join(parts, "/") + "/"
	hint := "check its spelling, or set allow-empty if it is to be filled later"
	switch {
	case e.object:
		hint = "an object has that name, and a prefix is a directory: use the part before its last slash"
	case len(parts) > 0 && likely != e.prefix:
		hint = fmt.Sprintf("keys seldom begin with a slash or have two in a row: perhaps it is %q", likely)
	}
	return fmt.Sprintf("nothing is below the prefix %q: %s", e.prefix, hint)
}

// Close closes what is still open in the bucket and ends all that it started.
func (b *Bucket) Close() error {
	var errs []error
	if b.core != nil {
		errs = append(errs, b.core.Close())
	}
	for _, c := range b.close {
		errs = append(errs, c())
	}
	b.close = nil
	return errors.Join(errs...)
}
