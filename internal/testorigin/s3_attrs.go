package testorigin

import (
	"crypto/md5" //nolint:gosec // the S3 ETag is defined by MD5
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// unescapePath undoes percent-encoding but leaves + alone.
func unescapePath(s string) (string, error) { return url.PathUnescape(s) }

// hashContent computes the sums that an upload of c would have. It takes over
// the caller's reference to c.
func hashContent(c *content, algorithm string) (upBody, error) {
	if algorithm == "" {
		algorithm = "CRC64NVME"
	}
	sum := md5.New() //nolint:gosec // as above
	h := newChecksum(algorithm)
	if _, err := c.copyTo(io.MultiWriter(sum, h), 0, c.size); err != nil {
		return upBody{}, err
	}
	sums := map[string]string{algorithm: base64.StdEncoding.EncodeToString(h.Sum(nil))}
	return upBody{content: c, md5: sum.Sum(nil), sums: sums}, nil
}

// objectAttributes serves GetObjectAttributes.
func (rq *request) objectAttributes() {
	v, e := rq.openVersion(rq.bucket, rq.key, rq.q.Get("versionId"))
	if e != nil {
		rq.fail(e)
		return
	}
	defer v.content.release()
	want := map[string]bool{}
	for _, line := range rq.r.Header.Values("X-Amz-Object-Attributes") {
		for a := range strings.SplitSeq(line, ",") {
			want[strings.TrimSpace(a)] = true
		}
	}
	if len(want) == 0 {
		rq.fail(s3err(http.StatusBadRequest, "InvalidArgument", "The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty"))
		return
	}
	etag, err := v.etagOf()
	if err != nil {
		rq.internal(err)
		return
	}
	sums, sumType, err := v.checksums()
	if err != nil {
		rq.internal(err)
		return
	}
	rq.w.Header().Set("Last-Modified", v.modified.UTC().Format(http.TimeFormat))
	x := newXML("GetObjectAttributesResponse", s3Namespace)
	if want["ETag"] {
		x.text("ETag", strings.Trim(etag, `"`))
	}
	if want["Checksum"] && len(sums) > 0 {
		x.start("Checksum")
		writeSums(x, sums)
		x.text("ChecksumType", sumType)
		x.end()
	}
	if want["ObjectParts"] && len(v.parts) > 0 {
		rq.objectParts(x, v.version)
	}
	if want["StorageClass"] {
		x.text("StorageClass", storageClass(v.version))
	}
	if want["ObjectSize"] {
		x.num("ObjectSize", v.content.size)
	}
	rq.sendXML(http.StatusOK, x)
}

func (rq *request) objectParts(x *xmlDoc, v *version) {
	limit := maxListKeys
	if n, err := strconv.Atoi(rq.r.Header.Get("X-Amz-Max-Parts")); err == nil && n >= 0 {
		limit = min(limit, n)
	}
	after, _ := strconv.Atoi(rq.r.Header.Get("X-Amz-Part-Number-Marker"))
	after = min(max(after, 0), len(v.parts))
	end := min(after+limit, len(v.parts))
	x.start("ObjectParts")
	x.num("PartsCount", int64(len(v.parts)))
	x.num("PartNumberMarker", int64(after))
	x.num("NextPartNumberMarker", int64(end))
	x.num("MaxParts", int64(limit))
	x.text("IsTruncated", strconv.FormatBool(end < len(v.parts)))
	for i, p := range v.parts[after:end] {
		x.start("Part")
		x.num("PartNumber", int64(after+i+1))
		x.num("Size", p.n)
		writeSums(x, p.sums)
		x.end()
	}
	x.end()
}

func writeSums(x *xmlDoc, sums map[string]string) {
	for _, a := range checksumAlgorithms {
		if sums[a] != "" {
			x.text("Checksum"+a, sums[a])
		}
	}
}
