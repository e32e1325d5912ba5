package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	tmtypes "github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// pooledBuffer is the copy buffer of manager-pooled. With io.Copy's default of 32
// KiB the manager takes twice the system time.
const pooledBuffer = 1 << 20 // bytes

// streamBuffer bounds the memory of tm-get; it equals our budget.
const streamBuffer = 128 << 20 // bytes

// downloader fetches one object and returns the number of bytes delivered.
type downloader func(ctx context.Context, bucket, key string, ref *reference) (int64, error)

func newDownloader(name string, client *s3.Client, part int64, conns int) (downloader, error) {
	tm := transfermanager.New(client, func(o *transfermanager.Options) {
		o.PartSizeBytes = part
		o.Concurrency = conns
		o.GetObjectType = tmtypes.GetObjectRanges
		o.GetObjectBufferSize = streamBuffer
		o.DisableChecksumValidation = true
	})
	old := manager.NewDownloader(client, func(d *manager.Downloader) {
		d.PartSize = part
		d.Concurrency = conns
		if name == "manager-pooled" {
			d.BufferProvider = manager.NewPooledBufferedWriterReadFromProvider(pooledBuffer)
		}
	})
	switch name {
	case "manager", "manager-pooled":
		return func(ctx context.Context, bucket, key string, ref *reference) (int64, error) {
			sink := &sink{ref: ref}
			n, err := old.Download(ctx, sink, &s3.GetObjectInput{Bucket: &bucket, Key: &key})
			return n, sink.check(n, err)
		}, nil
	case "tm-download":
		return func(ctx context.Context, bucket, key string, ref *reference) (int64, error) {
			sink := &sink{ref: ref}
			out, err := tm.DownloadObject(ctx, &transfermanager.DownloadObjectInput{Bucket: &bucket, Key: &key, WriterAt: sink})
			if err != nil {
				return sink.bytes.Load(), sink.check(-1, err)
			}
			n := aws.ToInt64(out.ContentLength)
			if n == 0 {
				n = sink.bytes.Load()
			}
			return n, sink.check(n, nil)
		}, nil
	case "tm-get":
		return func(ctx context.Context, bucket, key string, ref *reference) (int64, error) {
			out, err := tm.GetObject(ctx, &transfermanager.GetObjectInput{Bucket: &bucket, Key: &key})
			if err != nil {
				return 0, err
			}
			sink := &sink{ref: ref}
			n, err := io.CopyBuffer(sink, out.Body, make([]byte, pooledBuffer))
			return n, sink.check(n, err)
		}, nil
	}
	return nil, fmt.Errorf("unknown client %q: use manager, manager-pooled, tm-download or tm-get", name)
}

var errCorrupt = errors.New("delivered bytes differ from the object")

// reference is the object as it should arrive, or nil to skip the comparison.
type reference struct{ data []byte }

func openReference(path string) (*reference, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return &reference{data}, nil
}

// sink discards the bytes, after comparing them with the reference if there is one.
type sink struct {
	ref   *reference
	bytes atomic.Int64
	bad   atomic.Bool
	at    int64 // offset of Write; the stream has one writer
}

func (s *sink) WriteAt(p []byte, off int64) (int, error) {
	s.bytes.Add(int64(len(p)))
	if s.ref != nil && !s.bad.Load() {
		end := off + int64(len(p))
		if end > int64(len(s.ref.data)) || !bytes.Equal(p, s.ref.data[off:end]) {
			s.bad.Store(true)
		}
	}
	return len(p), nil
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.WriteAt(p, s.at)
	s.at += int64(n)
	return n, err
}

// check turns a reported success with wrong bytes into errCorrupt. Wrong bytes
// before a reported error don't count.
func (s *sink) check(n int64, err error) error {
	switch {
	case err != nil:
		return err
	case s.bad.Load(), s.ref != nil && n != int64(len(s.ref.data)):
		return errCorrupt
	}
	return nil
}
