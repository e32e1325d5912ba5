package testorigin

import (
	"crypto/md5" //nolint:gosec // the S3 ETag is defined by MD5
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"sync"
	"time"
)

// store holds the names, versions and headers of all buckets in memory. The
// bytes are in contents.
type store struct {
	mu      sync.RWMutex // guards the fields below, versions included; taken before counters.mu, never held during I/O
	buckets map[string]*bucket
}

func (s *store) init() { s.buckets = map[string]*bucket{} }

// BucketOptions describe a bucket. The zero value is a plain bucket in Region,
// owned by OwnerID.
type BucketOptions struct {
	Region        string // requests signed for another region are answered 301 PermanentRedirect
	Owner         string // checked against x-amz-expected-bucket-owner
	Versioning    bool
	RequesterPays bool // requests must carry x-amz-request-payer
}

type bucket struct {
	name       string
	opts       BucketOptions
	versioning string // "", "Enabled" or "Suspended"
	created    time.Time
	objects    map[string][]*version // newest first; never an empty slice
	keys       []string              // sorted; rebuilt when stale
	stale      bool
	uploads    map[string]*upload
}

// version is one version of an object. In a bucket it never changes, except for
// its lazily computed digests.
type version struct {
	key      string
	id       string // "null" outside versioning
	marker   bool   // delete marker
	modified time.Time
	content  *content
	parts    []part            // of a multipart upload
	header   map[string]string // Content-Type, x-amz-meta-* and so on, canonical names
	sseKey   string            // base64 MD5 of the customer key, if any

	lazy    sync.Mutex        // guards the fields below; held while hashing, so never locked under store.mu
	etag    string            // without quotes
	sums    map[string]string // base64 by algorithm ("CRC64NVME"); composite sums end in "-N"; the map never changes
	sumType string            // FULL_OBJECT or COMPOSITE
	want    bool              // CRC64NVME wanted but not yet computed
	err     error
}

// part is one part of a completed multipart upload.
type part struct {
	number int
	off, n int64
	sums   map[string]string
}

// etagOf returns the ETag with quotes. The first call may hash the content.
func (v *version) etagOf() (string, error) {
	v.lazy.Lock()
	defer v.lazy.Unlock()
	if v.etag == "" && v.err == nil {
		h := md5.New() //nolint:gosec // as above
		if _, v.err = v.content.copyTo(h, 0, v.content.size); v.err == nil {
			v.etag = hex.EncodeToString(h.Sum(nil))
		}
	}
	return `"` + v.etag + `"`, v.err
}

// checksums returns the checksums of the version. The first call may compute
// the one that PutFile was asked for.
func (v *version) checksums() (sums map[string]string, sumType string, err error) {
	v.lazy.Lock()
	defer v.lazy.Unlock()
	if v.want && v.err == nil {
		h := newChecksum("CRC64NVME")
		if _, v.err = v.content.copyTo(h, 0, v.content.size); v.err == nil {
			v.sums = map[string]string{"CRC64NVME": base64.StdEncoding.EncodeToString(h.Sum(nil))}
			v.sumType = fullObject
			v.want = false
		}
	}
	return v.sums, v.sumType, v.err
}

// knownSums returns the checksums that are known without reading the object.
func (v *version) knownSums() (map[string]string, string) {
	v.lazy.Lock()
	defer v.lazy.Unlock()
	return v.sums, v.sumType
}

// CreateBucket makes a bucket. It fails if the bucket exists.
func (o *Origin) CreateBucket(name string, opts BucketOptions) error {
	if name == "" || name == "v2" || name == "token" {
		return fmt.Errorf("testorigin: bucket name %q is taken by the registry's paths or empty; use another", name)
	}
	o.store.mu.Lock()
	defer o.store.mu.Unlock()
	if o.store.buckets[name] != nil {
		return fmt.Errorf("testorigin: bucket %q exists already", name)
	}
	o.store.create(name, opts, o.opts.Now())
	return nil
}

func (s *store) create(name string, opts BucketOptions, now time.Time) *bucket {
	if opts.Region == "" {
		opts.Region = Region
	}
	if opts.Owner == "" {
		opts.Owner = OwnerID
	}
	b := &bucket{name: name, opts: opts, created: now, objects: map[string][]*version{}, uploads: map[string]*upload{}}
	if opts.Versioning {
		b.versioning = "Enabled"
	}
	s.buckets[name] = b
	return b
}

// ensure returns the bucket, and makes a missing one with default options.
func (o *Origin) ensure(name string) *bucket {
	if b := o.store.buckets[name]; b != nil {
		return b
	}
	return o.store.create(name, BucketOptions{}, o.opts.Now())
}

// Put stores body as the object bucket/key and makes a missing bucket. The
// origin keeps body, which must not be changed.
func (o *Origin) Put(bucket, key string, body []byte) error {
	return o.putVersion(bucket, &version{key: key, content: memContent(body)})
}

// PutFileOptions select the hashes of a file that is put by reference.
type PutFileOptions struct {
	// ETag is used unchanged (without quotes). The default is the MD5 of the
	// file, computed at the first use.
	ETag string
	// Unhashed makes an ETag from the size, the time and a serial number, so
	// that a huge file is never read.
	Unhashed bool
	// CRC64NVME gives the object a full-object checksum, computed at the first
	// use.
	CRC64NVME bool
}

// PutFile serves the file at path as the object bucket/key without copying it,
// and makes a missing bucket. The file must not change while it is an object: a
// GET that finds another file or size fails with 500.
func (o *Origin) PutFile(bucket, key, path string, opts ...PutFileOptions) error {
	c, err := fileContent(path, false)
	if err != nil {
		return err
	}
	v := &version{key: key, content: c, modified: c.segs[0].b.ident.ModTime()}
	for _, po := range opts {
		v.etag, v.want = po.ETag, po.CRC64NVME
		if po.Unhashed && v.etag == "" {
			v.etag = fmt.Sprintf("%032x-1", mix(uint64(c.size)^mix(uint64(v.modified.UnixNano())^mix(o.serial.Add(1)))))
		}
	}
	return o.putVersion(bucket, v)
}

// PutDir puts every regular file below dir by reference, under its path
// relative to dir. It skips symbolic links.
func (o *Origin) PutDir(bucket, dir string, opts ...PutFileOptions) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return o.PutFile(bucket, filepath.ToSlash(rel), path, opts...)
	})
}

func (o *Origin) putVersion(bucket string, v *version) error {
	if bucket == "" || v.key == "" {
		return errors.New("testorigin: an object needs a bucket and a key")
	}
	o.store.mu.Lock()
	defer o.store.mu.Unlock()
	o.store.putLocked(o.ensure(bucket), v, o)
	return nil
}

// Delete removes the object, or adds a delete marker if the bucket keeps
// versions. As in S3, deleting a missing object succeeds.
func (o *Origin) Delete(bucket, key string) {
	o.store.mu.Lock()
	defer o.store.mu.Unlock()
	if b := o.store.buckets[bucket]; b != nil {
		o.store.removeLocked(b, key, "", o)
	}
}

// putLocked adds v as the newest version of its key. mu must be held.
func (s *store) putLocked(b *bucket, v *version, o *Origin) {
	if v.modified.IsZero() {
		v.modified = o.opts.Now()
	}
	v.id = "null"
	if b.versioning == "Enabled" {
		v.id = o.newID()
	}
	old := b.objects[v.key]
	if len(old) == 0 {
		b.stale = true
	}
	list := []*version{v}
	for _, w := range old {
		if w.id == v.id { // "null" replaces "null"
			w.drop()
			continue
		}
		list = append(list, w)
	}
	b.objects[v.key] = list
}

// drop releases the version's reference to its bytes. Running GETs have their
// own.
func (v *version) drop() {
	if v.content != nil {
		v.content.release()
	}
}

// newID returns a new identifier for a version or an upload. Identifiers sort
// in the order of their creation.
func (o *Origin) newID() string {
	n := o.serial.Add(1)
	return fmt.Sprintf("%012x%020x", n, mix(n^o.opts.Seed))
}

// drop releases all versions and uploads.
func (s *store) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.buckets {
		for _, list := range b.objects {
			for _, v := range list {
				v.drop()
			}
		}
		for _, u := range b.uploads {
			u.drop()
		}
	}
	s.buckets = map[string]*bucket{}
}

// removeLocked deletes one version, or adds a delete marker if id is "" and the
// bucket has versioning. It returns the version id and whether that is a delete
// marker. mu must be held.
func (s *store) removeLocked(b *bucket, key, id string, o *Origin) (string, bool) {
	list := b.objects[key]
	if id == "" {
		if b.versioning != "" {
			v := &version{key: key, marker: true}
			s.putLocked(b, v, o)
			return v.id, true
		}
		id = "null"
	}
	for i, v := range list {
		if v.id != id {
			continue
		}
		v.drop()
		if len(list) == 1 {
			delete(b.objects, key)
			b.stale = true
		} else {
			b.objects[key] = append(append([]*version{}, list[:i]...), list[i+1:]...)
		}
		return id, v.marker
	}
	return id, false
}

// sortedLocked returns the keys of b in byte order. mu must be held for
// writing.
func (b *bucket) sortedLocked() []string {
	if b.stale {
		b.keys = make([]string, 0, len(b.objects))
		for k := range b.objects {
			b.keys = append(b.keys, k)
		}
		sort.Strings(b.keys)
		b.stale = false
	}
	return b.keys
}

// findLocked returns a version of key, or the newest version if id is "". mu
// must be held.
func (b *bucket) findLocked(key, id string) *version {
	for _, v := range b.objects[key] {
		if id == "" || v.id == id {
			return v
		}
	}
	return nil
}

// swap is the effect of ActSwap on the object of the request.
func (rq *request) swap(f *firing) {
	if rq.bucket == "" || rq.key == "" {
		return
	}
	var c *content
	if f.File != "" {
		var err error
		if c, err = fileContent(f.File, false); err != nil {
			rq.o.opts.Log.Error("swap", "file", f.File, "err", err)
			return
		}
	}
	rq.o.store.mu.Lock()
	defer rq.o.store.mu.Unlock()
	b := rq.o.store.buckets[rq.bucket]
	if b == nil {
		return
	}
	old := b.findLocked(rq.key, "")
	if old == nil || old.marker {
		return
	}
	if c == nil {
		c = old.content.scrambled()
	}
	rq.o.store.putLocked(b, &version{key: rq.key, content: c, header: old.header}, rq.o)
}

// Swap replaces an object by a version of the same size in which every byte
// differs, as the swap fault does.
func (o *Origin) Swap(bucket, key string) {
	rq := &request{o: o, bucket: bucket, key: key}
	rq.swap(&firing{})
}

// scratch makes a file for an uploaded body.
func (o *Origin) scratch() (*os.File, error) {
	name := o.dir + "/" + strconv.FormatUint(o.serial.Add(1), 36) + ".body"
	return os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}
