package s3stream

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/s3"
)

// s3Store reads from an S3 service.
type s3Store struct{ c *s3.Client }

// openStore makes the client; it makes no request yet.
func openStore(ctx context.Context, o S3) (*s3Store, error) {
	c, err := s3.New(ctx, o.client())
	if err != nil {
		return nil, err
	}
	return &s3Store{c}, nil
}

func (s *s3Store) close() { s.c.Close() }

func (s *s3Store) source(o *Object) (ranges.Source, ranges.Spec, error) {
	sum, err := parseChecksum(o.Checksum)
	if err != nil {
		return nil, ranges.Spec{}, err
	}
	info := s3.ObjectInfo{Size: o.Size, ETag: o.ETag, Checksum: sum, LastModified: o.Modified}
	spec := s.c.Spec(o.Bucket, o.Key, info)
	switch {
	case o.VersionID == "":
		return s.c.Source(o.Bucket, o.Key, s3.SourceOptions{}), spec, nil
	case spec.Pin != "":
		// The ETag pins, since a plain read needs no right to read versions; the
		// version, where it may be read, outlives a replacement of the object.
		return s.c.Source(o.Bucket, o.Key, s3.SourceOptions{PreferVersion: o.VersionID}), spec, nil
	}
	src := s.c.Source(o.Bucket, o.Key, s3.SourceOptions{VersionID: o.VersionID})
	return src, s.c.SpecVersion(o.Bucket, o.Key, o.VersionID, info), nil
}

// resolve finds the objects of all URIs, in order, and pins each.
func (s *s3Store) resolve(ctx context.Context, uris []string) ([]Object, error) {
	var all []Object
	for _, u := range uris {
		t, err := parseURI(u)
		if err != nil {
			return nil, err
		}
		var found []Object
		if t.prefix {
			found, err = s.list(ctx, t)
		} else {
			found, err = s.head(ctx, t)
		}
		if err != nil {
			return nil, err
		}
		if all = append(all, found...); len(all) > MaxObjects {
			return nil, fmt.Errorf("more than the %d objects of one job: use a longer prefix", MaxObjects)
		}
	}
	return all, nil
}

func (s *s3Store) head(ctx context.Context, t target) ([]Object, error) {
	info, err := s.c.Head(ctx, t.bucket, t.key)
	if err != nil {
		return nil, s.explain(ctx, t, err)
	}
	if info.Archived {
		return nil, archivedError(t.bucket, t.key)
	}
	o := Object{Bucket: t.bucket, Key: t.key, Name: path.Base(t.key), ETag: info.ETag, Size: info.Size, Checksum: formatChecksum(info.Checksum), Modified: info.LastModified}
	// The version "null" of a bucket that no longer keeps versions can be
	// replaced; its ETag tells when.
	if info.VersionID != "null" {
		o.VersionID = info.VersionID
	}
	return []Object{o}, nil
}

// explain finds a better reason for a failed HEAD, whose answer has no body to
// say one: whether it is the bucket, the credentials, or a missing slash.
func (s *s3Store) explain(ctx context.Context, t target, err error) error {
	if !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrDenied) {
		return err
	}
	for e, listErr := range s.c.List(ctx, t.bucket, s3.ListOptions{Prefix: t.key + "/", MaxKeys: 1}) {
		se := (*s3.Error)(nil)
		switch {
		case listErr == nil && errors.Is(err, ErrNotFound) && e.Key != "":
			return fmt.Errorf("%w: for all objects below it, write s3://%s/%s/", err, t.bucket, t.key)
		case errors.As(listErr, &se) && se.Code != "" && se.Code != "AccessDenied":
			return listErr // not being allowed to list would say nothing of the object
		}
		break
	}
	return err
}

// list finds the objects below a prefix. A listing has no versions and no
// checksums: the ETag pins them.
func (s *s3Store) list(ctx context.Context, t target) ([]Object, error) {
	var found []Object
	for e, err := range s.c.List(ctx, t.bucket, s3.ListOptions{Prefix: t.key}) {
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(e.Key, "/") && e.Size == 0 {
			continue // what consoles make as the mark of a folder
		}
		if e.Archived {
			return nil, archivedError(t.bucket, e.Key)
		}
		found = append(found, Object{Bucket: t.bucket, Key: e.Key, Name: strings.TrimPrefix(e.Key, t.key), ETag: e.ETag, Size: e.Size, Modified: e.LastModified})
		if len(found) > MaxObjects {
			break // resolve says so
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("s3://%s/%s: %w: nothing is there", t.bucket, t.key, ErrNotFound)
	}
	return found, nil
}

func archivedError(bucket, key string) error {
	return fmt.Errorf("s3://%s/%s: %w: restore it first", bucket, key, s3.ErrArchived)
}
