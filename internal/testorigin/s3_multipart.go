package testorigin

import (
	"crypto/md5" //nolint:gosec // the S3 ETag is defined by MD5
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

const (
	maxPartNumber = 10000
	// minPartSize is the smallest size of parts except for the last, 5 MiB as
	// in S3.
	minPartSize = 5 << 20
)

// upload is a multipart upload that has not been completed.
type upload struct {
	id, key   string
	started   time.Time
	header    map[string]string
	sseKey    string
	algorithm string // of the checksums, or "" without checksums
	sumType   string
	parts     map[int]*upPart
}

type upPart struct {
	body     upBody
	modified time.Time
}

func (p *upPart) etag() string { return `"` + hex.EncodeToString(p.body.md5) + `"` }

func (u *upload) drop() {
	for _, p := range u.parts {
		p.body.content.release()
	}
}

// numbers returns the part numbers in order.
func (u *upload) numbers() []int {
	var out []int
	for n := range u.parts {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func (rq *request) createUpload() {
	rq.discard()
	h := rq.r.Header
	u := &upload{
		key: rq.key, started: rq.o.opts.Now(), header: storedHeaders(h), parts: map[int]*upPart{},
		algorithm: strings.ToUpper(h.Get("X-Amz-Checksum-Algorithm")), sumType: strings.ToUpper(h.Get("X-Amz-Checksum-Type")),
		sseKey: h.Get("X-Amz-Server-Side-Encryption-Customer-Key-Md5"),
	}
	if u.algorithm != "" && newChecksum(u.algorithm) == nil {
		rq.fail(s3err(http.StatusBadRequest, "InvalidRequest", "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]"))
		return
	}
	if u.sumType == "" && u.algorithm != "" {
		u.sumType = composite
		if u.algorithm == "CRC64NVME" {
			u.sumType = fullObject
		}
	}
	if u.sumType == fullObject && strings.HasPrefix(u.algorithm, "SHA") || u.sumType == composite && u.algorithm == "CRC64NVME" {
		rq.fail(s3err(http.StatusBadRequest, "InvalidRequest", "The "+u.sumType+" checksum type cannot be used with the "+u.algorithm+" checksum algorithm."))
		return
	}
	u.id = rq.o.newID()
	rq.o.store.mu.Lock()
	b := rq.o.store.buckets[rq.bucket]
	if b != nil {
		b.uploads[u.id] = u
	}
	rq.o.store.mu.Unlock()
	if b == nil {
		rq.fail(errNoSuchBucket)
		return
	}
	if u.algorithm != "" {
		rq.w.Header().Set("X-Amz-Checksum-Algorithm", u.algorithm)
		rq.w.Header().Set("X-Amz-Checksum-Type", u.sumType)
	}
	x := newXML("InitiateMultipartUploadResult", s3Namespace)
	x.text("Bucket", rq.bucket)
	x.text("Key", rq.key)
	x.text("UploadId", u.id)
	rq.sendXML(http.StatusOK, x)
}

// uploadLocked returns the upload that the request names. store.mu must be
// held.
func (rq *request) uploadLocked() (*bucket, *upload, *s3Error) {
	b := rq.o.store.buckets[rq.bucket]
	if b == nil {
		return nil, nil, errNoSuchBucket
	}
	u := b.uploads[rq.q.Get("uploadId")]
	if u == nil || u.key != rq.key {
		return b, nil, errNoSuchUpload
	}
	return b, u, nil
}

// uploadAlgorithm returns the checksum algorithm of the upload.
func (rq *request) uploadAlgorithm() (string, *s3Error) {
	rq.o.store.mu.RLock()
	defer rq.o.store.mu.RUnlock()
	_, u, e := rq.uploadLocked()
	if e != nil {
		return "", e
	}
	return u.algorithm, nil
}

func (rq *request) partNumber() (int, *s3Error) {
	n, err := strconv.Atoi(rq.q.Get("partNumber"))
	if err != nil || n < 1 || n > maxPartNumber {
		return 0, s3err(http.StatusBadRequest, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
	}
	return n, nil
}

func (rq *request) uploadPart() {
	n, e := rq.partNumber()
	if e != nil {
		rq.fail(e)
		return
	}
	algorithm, e := rq.uploadAlgorithm()
	if e != nil {
		rq.fail(e)
		return
	}
	ub, e := rq.receive(algorithm)
	if e != nil {
		rq.fail(e)
		return
	}
	p := &upPart{body: ub, modified: rq.o.opts.Now()}
	if e := rq.addPart(n, p); e != nil {
		rq.fail(e)
		return
	}
	h := rq.w.Header()
	h.Set("Etag", p.etag())
	for a, sum := range ub.sums {
		h.Set(checksumHeader(a), sum)
	}
	rq.write(http.StatusOK, "", nil)
}

// addPart puts p into the upload and replaces an earlier part with its number.
// It takes over p's reference to the bytes.
func (rq *request) addPart(n int, p *upPart) *s3Error {
	rq.o.store.mu.Lock()
	defer rq.o.store.mu.Unlock()
	_, u, e := rq.uploadLocked()
	if e != nil {
		p.body.content.release()
		return e
	}
	if old := u.parts[n]; old != nil {
		old.body.content.release()
	}
	u.parts[n] = p
	return nil
}

// completeDoc is the request document of CompleteMultipartUpload.
type completeDoc struct {
	XMLName xml.Name
	Part    []struct {
		PartNumber                                                                     int
		ETag                                                                           string
		ChecksumCRC32, ChecksumCRC32C, ChecksumCRC64NVME, ChecksumSHA1, ChecksumSHA256 string
	}
}

func (d completeDoc) sum(i int, algorithm string) string {
	p := d.Part[i]
	return map[string]string{
		"CRC32": p.ChecksumCRC32, "CRC32C": p.ChecksumCRC32C, "CRC64NVME": p.ChecksumCRC64NVME, "SHA1": p.ChecksumSHA1,
		"SHA256": p.ChecksumSHA256,
	}[algorithm]
}

func (rq *request) completeUpload() {
	var doc completeDoc
	want := rq.r.Header.Clone()
	for _, a := range checksumAlgorithms { // these headers describe the object and not the request document
		rq.r.Header.Del(checksumHeader(a))
	}
	if e := rq.readXML(&doc); e != nil {
		rq.fail(e)
		return
	}
	rq.o.store.mu.Lock()
	b, u, e := rq.uploadLocked()
	var v *version
	if e == nil {
		v, e = u.assembleLocked(doc, want)
	}
	rq.o.store.mu.Unlock()
	if e != nil {
		rq.fail(e)
		return
	}
	if e := rq.commit(v, want); e != nil {
		v.content.release()
		rq.fail(e)
		return
	}
	rq.o.store.mu.Lock()
	if b.uploads[u.id] == u {
		delete(b.uploads, u.id)
		u.drop()
	}
	rq.o.store.mu.Unlock()
	x := newXML("CompleteMultipartUploadResult", s3Namespace)
	x.text("Location", rq.o.ObjectURL(rq.bucket, rq.key))
	x.text("Bucket", rq.bucket)
	x.text("Key", rq.key)
	x.text("ETag", `"`+v.etag+`"`)
	for a, sum := range v.sums {
		x.text("Checksum"+a, sum)
		x.text("ChecksumType", v.sumType)
	}
	rq.sendXML(http.StatusOK, x)
}

// assembleLocked makes the version from the listed parts without moving bytes.
// store.mu must be held.
func (u *upload) assembleLocked(doc completeDoc, want http.Header) (*version, *s3Error) {
	if len(doc.Part) == 0 || doc.XMLName.Local != "CompleteMultipartUpload" {
		return nil, errMalformedXML
	}
	v := &version{key: u.key, header: u.header, sseKey: u.sseKey}
	md := md5.New() //nolint:gosec // as above
	var segs []segment
	var sums []string
	var sizes []int64
	var off int64
	for i := range doc.Part[1:] {
		if doc.Part[i+1].PartNumber > doc.Part[i].PartNumber {
			continue
		}
		return nil, s3err(http.StatusBadRequest, "InvalidPartOrder", "The list of parts was not in ascending order. Parts must be ordered by part number.")
	}
	for i, dp := range doc.Part {
		p := u.parts[dp.PartNumber]
		if p == nil || strings.Trim(dp.ETag, `"`) != hex.EncodeToString(p.body.md5) {
			return nil, s3err(http.StatusBadRequest, "InvalidPart", "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.")
		}
		if claimed := doc.sum(i, u.algorithm); claimed != "" && claimed != p.body.sums[u.algorithm] {
			return nil, s3err(http.StatusBadRequest, "InvalidPart", "The checksum of a part does not match what was uploaded.")
		}
		n := p.body.content.size
		if n < minPartSize && i < len(doc.Part)-1 {
			return nil, s3err(http.StatusBadRequest, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
		}
		md.Write(p.body.md5)
		segs = append(segs, p.body.content.segs...)
		v.parts = append(v.parts, part{number: dp.PartNumber, off: off, n: n, sums: p.body.sums})
		sums, sizes = append(sums, p.body.sums[u.algorithm]), append(sizes, n)
		off += n
	}
	if s := want.Get("X-Amz-Mp-Object-Size"); s != "" && s != strconv.FormatInt(off, 10) {
		return nil, s3err(http.StatusBadRequest, "InvalidRequest", "The provided x-amz-mp-object-size does not match the size of the object.")
	}
	v.etag = fmt.Sprintf("%x-%d", md.Sum(nil), len(doc.Part))
	algorithm, sumType := u.algorithm, u.sumType
	if algorithm == "" { // as for a plain PUT, S3 adds one
		algorithm, sumType = "CRC64NVME", fullObject
		for i := range sums {
			sums[i] = v.parts[i].sums[algorithm]
		}
	}
	if err := v.sumParts(algorithm, sumType, sums, sizes, want); err != nil {
		return nil, err
	}
	v.content = newContent(segs)
	return v, nil
}

// sumParts computes the checksum of v from its parts' checksums, and compares
// it with the client's.
func (v *version) sumParts(algorithm, sumType string, sums []string, sizes []int64, want http.Header) *s3Error {
	var sum string
	var ok bool
	if sumType == composite {
		sum, ok = compositeSum(algorithm, sums)
	} else {
		sum, ok = combineSums(algorithm, sums, sizes)
	}
	if !ok { // a part has no checksum of this algorithm, so the object has none
		return nil
	}
	if claimed := want.Get(checksumHeader(algorithm)); claimed != "" {
		c, _, _ := strings.Cut(claimed, "-")
		if c != sum {
			return s3err(http.StatusBadRequest, "BadDigest", "The "+algorithm+" you specified did not match the calculated checksum.")
		}
	}
	if sumType == composite {
		sum += "-" + strconv.Itoa(len(sums))
	}
	v.sums, v.sumType = map[string]string{algorithm: sum}, sumType
	return nil
}

func (rq *request) abortUpload() {
	rq.o.store.mu.Lock()
	b, u, e := rq.uploadLocked()
	if e == nil {
		delete(b.uploads, u.id)
		u.drop()
	}
	rq.o.store.mu.Unlock()
	if e != nil {
		rq.fail(e)
		return
	}
	rq.header(http.StatusNoContent)
}

func (rq *request) listParts() {
	limit := maxListKeys
	if n, err := strconv.Atoi(rq.q.Get("max-parts")); err == nil && n >= 0 {
		limit = min(limit, n)
	}
	after, _ := strconv.Atoi(rq.q.Get("part-number-marker"))
	rq.o.store.mu.RLock()
	_, u, e := rq.uploadLocked()
	if e != nil {
		rq.o.store.mu.RUnlock()
		rq.fail(e)
		return
	}
	x := newXML("ListPartsResult", s3Namespace)
	x.text("Bucket", rq.bucket)
	x.text("Key", rq.key)
	x.text("UploadId", u.id)
	x.num("PartNumberMarker", int64(after))
	x.num("MaxParts", int64(limit))
	if u.algorithm != "" {
		x.text("ChecksumAlgorithm", u.algorithm)
		x.text("ChecksumType", u.sumType)
	}
	count, last, more := 0, after, false
	for _, n := range u.numbers() {
		if n <= after {
			continue
		}
		if count == limit {
			more = true
			break
		}
		count, last = count+1, n
		p := u.parts[n]
		x.start("Part")
		x.num("PartNumber", int64(n))
		x.time("LastModified", p.modified)
		x.text("ETag", p.etag())
		x.num("Size", p.body.content.size)
		if u.algorithm != "" {
			x.text("Checksum"+u.algorithm, p.body.sums[u.algorithm])
		}
		x.end()
	}
	rq.o.store.mu.RUnlock()
	x.num("NextPartNumberMarker", int64(last))
	x.text("IsTruncated", strconv.FormatBool(more))
	rq.sendXML(http.StatusOK, x)
}

func (rq *request) listUploads() {
	q, e := rq.listQuery()
	if e != nil {
		rq.fail(e)
		return
	}
	var list []*upload
	rq.o.store.mu.RLock()
	if b := rq.o.store.buckets[rq.bucket]; b != nil {
		for _, u := range b.uploads {
			if strings.HasPrefix(u.key, q.prefix) {
				list = append(list, u)
			}
		}
	}
	rq.o.store.mu.RUnlock()
	sort.Slice(list, func(i, j int) bool {
		if list[i].key != list[j].key {
			return list[i].key < list[j].key
		}
		return list[i].id < list[j].id
	})
	x := newXML("ListMultipartUploadsResult", s3Namespace)
	x.text("Bucket", rq.bucket)
	x.text("Prefix", q.name(q.prefix))
	x.num("MaxUploads", maxListKeys)
	x.text("IsTruncated", "false") // one page, because tests do not leave thousands of uploads behind
	for _, u := range list {
		x.start("Upload")
		x.text("Key", q.name(u.key))
		x.text("UploadId", u.id)
		x.time("Initiated", u.started)
		x.end()
	}
	rq.sendXML(http.StatusOK, x)
}
