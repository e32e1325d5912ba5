package testorigin

import (
	"encoding/xml"
	"io"
	"net/http"
	"slices"
	"time"
)

// isoTime is the time format of S3 documents.
const isoTime = "2006-01-02T15:04:05.000Z"

func (x *xmlDoc) time(name string, t time.Time) { x.text(name, t.UTC().Format(isoTime)) }

// readXML reads a small request document.
func (rq *request) readXML(into any) *s3Error {
	ub, e := rq.receive("")
	if e != nil {
		return e
	}
	defer ub.content.release()
	if ub.content.size > maxXMLBody {
		return errMalformedXML
	}
	raw, err := ub.content.bytesAt(0, ub.content.size)
	if err != nil || xml.Unmarshal(raw, into) != nil {
		return errMalformedXML
	}
	return nil
}

func (rq *request) listBuckets() {
	if rq.r.Method != http.MethodGet {
		rq.fail(s3err(http.StatusMethodNotAllowed, "MethodNotAllowed", "The specified method is not allowed against this resource."))
		return
	}
	x := newXML("ListAllMyBucketsResult", s3Namespace)
	x.start("Owner")
	x.text("ID", OwnerID)
	x.end()
	x.start("Buckets")
	rq.o.store.mu.RLock()
	var names []string
	for name := range rq.o.store.buckets {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b := rq.o.store.buckets[name]
		x.start("Bucket")
		x.text("Name", name)
		x.time("CreationDate", b.created)
		x.text("BucketRegion", b.opts.Region)
		x.end()
	}
	rq.o.store.mu.RUnlock()
	x.end()
	rq.sendXML(http.StatusOK, x)
}

func (rq *request) createBucket() {
	var conf struct {
		LocationConstraint string
	}
	if rq.r.ContentLength != 0 {
		if e := rq.readXML(&conf); e != nil {
			rq.fail(e)
			return
		}
	}
	o := rq.o
	o.store.mu.Lock()
	exists := o.store.buckets[rq.bucket] != nil
	if !exists {
		o.store.create(rq.bucket, BucketOptions{Region: conf.LocationConstraint}, o.opts.Now())
	}
	o.store.mu.Unlock()
	if exists {
		rq.fail(s3err(http.StatusConflict, "BucketAlreadyOwnedByYou", "Your previous request to create the named bucket succeeded and you already own it."))
		return
	}
	rq.w.Header().Set("Location", "/"+rq.bucket)
	rq.write(http.StatusOK, "", nil)
}

func (rq *request) headBucket() {
	rq.o.store.mu.RLock()
	region := rq.o.store.buckets[rq.bucket].regionOr()
	rq.o.store.mu.RUnlock()
	rq.w.Header().Set("X-Amz-Bucket-Region", region)
	rq.w.Header().Set("Content-Type", "application/xml")
	rq.header(http.StatusOK)
}

// regionOr returns the bucket's region, or the default region if the bucket was
// deleted.
func (b *bucket) regionOr() string {
	if b == nil {
		return Region
	}
	return b.opts.Region
}

func (rq *request) deleteBucket() {
	s := &rq.o.store
	s.mu.Lock()
	b := s.buckets[rq.bucket]
	full := b != nil && len(b.objects) > 0
	if !full {
		for _, u := range b.uploadsOr() {
			u.drop()
		}
		delete(s.buckets, rq.bucket)
	}
	s.mu.Unlock()
	if full {
		rq.fail(s3err(http.StatusConflict, "BucketNotEmpty", "The bucket you tried to delete is not empty"))
		return
	}
	rq.header(http.StatusNoContent)
}

func (b *bucket) uploadsOr() map[string]*upload {
	if b == nil {
		return nil
	}
	return b.uploads
}

func (rq *request) bucketLocation() {
	rq.o.store.mu.RLock()
	region := rq.o.store.buckets[rq.bucket].regionOr()
	rq.o.store.mu.RUnlock()
	if region == "us-east-1" {
		region = "" // S3 returns an empty text for this region
	}
	x := newXML("LocationConstraint", s3Namespace)
	_ = xml.EscapeText(&x.b, []byte(region))
	rq.sendXML(http.StatusOK, x)
}

func (rq *request) bucketVersioning() {
	rq.o.store.mu.RLock()
	state := ""
	if b := rq.o.store.buckets[rq.bucket]; b != nil {
		state = b.versioning
	}
	rq.o.store.mu.RUnlock()
	x := newXML("VersioningConfiguration", s3Namespace)
	if state != "" {
		x.text("Status", state)
	}
	rq.sendXML(http.StatusOK, x)
}

func (rq *request) putVersioning() {
	var conf struct{ Status string }
	if e := rq.readXML(&conf); e != nil {
		rq.fail(e)
		return
	}
	if conf.Status != "Enabled" && conf.Status != "Suspended" {
		rq.fail(errMalformedXML)
		return
	}
	rq.o.store.mu.Lock()
	if b := rq.o.store.buckets[rq.bucket]; b != nil {
		b.versioning = conf.Status
	}
	rq.o.store.mu.Unlock()
	rq.write(http.StatusOK, "", nil)
}

// deleteObjects serves the bulk delete.
func (rq *request) deleteObjects() {
	var doc struct {
		Quiet  bool
		Object []struct{ Key, VersionId string } //nolint:revive // the name of the XML element
	}
	if e := rq.readXML(&doc); e != nil {
		rq.fail(e)
		return
	}
	if len(doc.Object) == 0 || len(doc.Object) > maxListKeys {
		rq.fail(errMalformedXML)
		return
	}
	x := newXML("DeleteResult", s3Namespace)
	rq.o.store.mu.Lock()
	b := rq.o.store.buckets[rq.bucket]
	for _, obj := range doc.Object {
		if b == nil {
			break
		}
		id, marker := rq.o.store.removeLocked(b, obj.Key, obj.VersionId, rq.o)
		if doc.Quiet {
			continue
		}
		x.start("Deleted")
		x.text("Key", obj.Key)
		if obj.VersionId != "" {
			x.text("VersionId", obj.VersionId)
		}
		if marker {
			x.text("DeleteMarker", "true")
			x.text("DeleteMarkerVersionId", id)
		}
		x.end()
	}
	rq.o.store.mu.Unlock()
	rq.sendXML(http.StatusOK, x)
}

// discard reads the rest of a request body that the handler does not use.
func (rq *request) discard() { _, _ = io.Copy(io.Discard, rq.body) }
