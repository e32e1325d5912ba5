package csi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/penstock/penstock/csi/internal/fuse"
	"github.com/penstock/penstock/internal/redact"
)

// Why a mount can't be made; see the text of each for what to do.
var (
	ErrNoDevice = fuse.ErrNoDevice
	ErrNoHelper = fuse.ErrNoHelper
	ErrBusy     = fuse.ErrBusy
)

// ErrDetached is returned by [Mounted.Unmount] when the mount point is free, but programs still hold files of the mount
// open, and not being root we can't take them away. It ends with the last of them, or with this process.
var ErrDetached = fuse.ErrDetached

// MountOptions say which bucket to mount, and where.
type MountOptions struct {
	BucketOptions
	Dir        string // an existing directory that is no mount point yet
	AllowOther bool   // other users may read as well, by the modes of files and directories
}

// Validate returns what is wrong with the options, and how to put it right.
func (o MountOptions) Validate() error {
	if o.Dir == "" {
		return errors.New("no mount point: name an existing directory")
	}
	return o.BucketOptions.Validate()
}

// Format implements [fmt.Formatter]: every verb prints the fields that are set, without secrets.
func (o MountOptions) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redact.Struct(o)) }

// Mounted is a mounted bucket.
type Mounted struct {
	bucket *Bucket
	server *fuse.Server

	once sync.Once // closes the bucket
	err  error     // of that
}

// Mount opens a bucket and mounts it, read-only. It works as root, and for other users through fusermount3. The mount
// lasts until [Mounted.Unmount], or until somebody unmounts it ([Mounted.Done]); ctx bounds only the call itself.
func Mount(ctx context.Context, opts MountOptions) (*Mounted, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	b, err := OpenBucket(ctx, opts.BucketOptions)
	if err != nil {
		return nil, err
	}
	m, err := b.mount(opts.Dir, fuse.Options{AllowOther: opts.AllowOther, Log: opts.Log})
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return m, nil
}

// mount mounts an open bucket, which belongs to the mount from then on. Without a source it is a mount by hand.
func (b *Bucket) mount(dir string, opts fuse.Options) (*Mounted, error) {
	if opts.Source == "" {
		opts.Source = handPrefix + b.name
	}
	srv, err := fuse.Mount(b.core, dir, opts)
	if err != nil {
		return nil, err
	}
	return &Mounted{bucket: b, server: srv}, nil
}

// Dir returns where the bucket is mounted, as an absolute path without links.
func (m *Mounted) Dir() string { return m.server.Dir() }

// Done is closed when the bucket is no longer mounted. Call Unmount all the same: it closes the bucket.
func (m *Mounted) Done() <-chan struct{} { return m.server.Done() }

// Unmount unmounts and closes the bucket. Files that programs still have open fail from then on; nothing waits for them.
// It may be called again after an error.
func (m *Mounted) Unmount(ctx context.Context) error {
	if err := m.server.Unmount(ctx); err != nil {
		return err
	}
	m.once.Do(func() { m.err = m.bucket.Close() })
	return m.err
}
