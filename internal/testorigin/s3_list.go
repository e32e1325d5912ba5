package testorigin

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
)

// maxListKeys is the largest page of a listing, and the largest bulk delete.
const maxListKeys = 1000

// listQuery has the parameters that the three listings share.
type listQuery struct {
	prefix, delimiter string
	max               int
	urlEncoded        bool
}

// item is one line of a page: a key, or a prefix that stands for all keys below it.
type item struct {
	key    string
	prefix bool
}

func (rq *request) listQuery() (listQuery, *s3Error) {
	q := listQuery{prefix: rq.q.Get("prefix"), delimiter: rq.q.Get("delimiter"), max: maxListKeys}
	bad := func(msg string) *s3Error { return s3err(http.StatusBadRequest, "InvalidArgument", msg) }
	if s := rq.q.Get("max-keys"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return q, bad("max-keys is not a number from 0 to 2147483647")
		}
		q.max = min(n, maxListKeys)
	}
	if rq.quirks.ListPage > 0 {
		q.max = min(q.max, rq.quirks.ListPage)
	}
	if rq.quirks.ListPlain {
		return q, nil
	}
	switch rq.q.Get("encoding-type") {
	case "":
	case "url":
		q.urlEncoded = true
	default:
		return q, bad("Invalid Encoding Method specified in Request")
	}
	return q, nil
}

// name encodes a key for a listing.
func (q listQuery) name(s string) string {
	if !q.urlEncoded {
		return s
	}
	return strings.ReplaceAll(url.QueryEscape(s), "%2F", "/") // a space becomes +, as in S3
}

// page returns up to q.max items that are greater than after, and whether there
// are more. keys is sorted, and so is the page, with groups sorted by their
// prefix. So the next page begins after the last item of a page, whether a key
// or a group, and a start inside a group skips the rest of the group.
func (q listQuery) page(keys []string, after string) (items []item, more bool) {
	i := max(sort.SearchStrings(keys, q.prefix), sort.SearchStrings(keys, after))
	if i < len(keys) && keys[i] == after {
		i++
	}
	for i < len(keys) && strings.HasPrefix(keys[i], q.prefix) {
		it := item{key: keys[i]}
		next := i + 1
		if q.delimiter != "" {
			if d := strings.Index(keys[i][len(q.prefix):], q.delimiter); d >= 0 {
				it = item{keys[i][:len(q.prefix)+d+len(q.delimiter)], true}
				next = pastPrefix(keys, it.key)
			}
		}
		if it.key <= after {
			i = next
			continue
		}
		if len(items) == q.max {
			return items, true
		}
		items = append(items, it)
		i = next
	}
	return items, false
}

// pastPrefix returns the index of the first key after all keys that start with
// prefix.
func pastPrefix(keys []string, prefix string) int {
	i := sort.SearchStrings(keys, prefix)
	return i + sort.Search(len(keys)-i, func(j int) bool { return !strings.HasPrefix(keys[i+j], prefix) })
}

// makeToken and parseToken turn the last item of a page into an opaque
// continuation token and back.
func makeToken(after string) string { return base64.URLEncoding.EncodeToString([]byte("1" + after)) }

func parseToken(s string) (string, bool) {
	raw, err := base64.URLEncoding.DecodeString(s)
	if err != nil || len(raw) < 2 || raw[0] != '1' || makeToken(string(raw[1:])) != s {
		return "", false
	}
	return string(raw[1:]), true
}

// row is an item with the details that a listing shows, read under the lock.
type row struct {
	item
	v *version
}

// rows returns one page of objects.
func (rq *request) rows(q listQuery, after string) (rows []row, more bool) {
	s := &rq.o.store
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[rq.bucket]
	if b == nil {
		return nil, false
	}
	keys := b.sortedLocked()
	if b.versioning != "" { // a delete marker may hide a key
		live := keys[:0:0]
		for _, k := range keys {
			if !b.objects[k][0].marker {
				live = append(live, k)
			}
		}
		keys = live
	}
	items, more := q.page(keys, after)
	for _, it := range items {
		r := row{item: it}
		if !it.prefix {
			r.v = b.objects[it.key][0]
			r.v.content.retain() // the ETag may have to be computed
		}
		rows = append(rows, r)
	}
	return rows, more && len(items) > 0
}

// contents writes the rows of objects and then the rows of prefixes, in S3's
// order.
func (rq *request) contents(x *xmlDoc, q listQuery, rows []row, owner bool) error {
	var firstErr error
	for _, r := range rows {
		if r.prefix {
			continue
		}
		etag, err := r.v.etagOf()
		size := r.v.content.size
		r.v.content.release()
		if err != nil && firstErr == nil {
			firstErr = err
		}
		x.start("Contents")
		x.text("Key", q.name(r.key))
		x.time("LastModified", r.v.modified)
		if etag = rq.quirks.ListETag.spell(etag); etag != "" {
			x.text("ETag", etag)
		}
		sums, sumType := r.v.knownSums()
		for _, a := range checksumAlgorithms {
			if sums[a] != "" {
				x.text("ChecksumAlgorithm", a)
				x.text("ChecksumType", sumType)
			}
		}
		x.num("Size", size)
		if owner {
			x.start("Owner")
			x.text("ID", OwnerID)
			x.end()
		}
		x.text("StorageClass", storageClass(r.v))
		x.end()
	}
	for _, r := range rows {
		if r.prefix {
			x.start("CommonPrefixes")
			x.text("Prefix", q.name(r.key))
			x.end()
		}
	}
	return firstErr
}

func storageClass(v *version) string {
	if c := v.header["X-Amz-Storage-Class"]; c != "" {
		return c
	}
	return "STANDARD"
}

// listHead writes the beginning of all listings.
func (rq *request) listHead(x *xmlDoc, q listQuery, more bool) {
	x.text("Name", rq.bucket)
	x.text("Prefix", q.name(q.prefix))
	if q.delimiter != "" {
		x.text("Delimiter", q.name(q.delimiter))
	}
	x.num("MaxKeys", int64(q.max))
	if q.urlEncoded {
		x.text("EncodingType", "url")
	}
	x.text("IsTruncated", strconv.FormatBool(more))
}

func (rq *request) listV2() {
	q, e := rq.listQuery()
	if e != nil {
		rq.fail(e)
		return
	}
	after := rq.q.Get("start-after")
	token := rq.q.Get("continuation-token")
	rows, next, ok := rq.pageV2(q, after, token)
	if !ok {
		rq.fail(s3err(http.StatusBadRequest, "InvalidArgument", "The continuation token provided is incorrect"))
		return
	}
	more := next != ""
	if rq.fx.find(ActStuckToken) != nil { // each page is the same, and claims that more follow
		more, next = true, token
		if next == "" {
			next = makeToken("\x00")
		}
	}
	x := newXML("ListBucketResult", s3Namespace)
	rq.listHead(x, q, more)
	x.num("KeyCount", int64(len(rows)))
	if token != "" {
		x.text("ContinuationToken", token)
	}
	if next != "" {
		x.text("NextContinuationToken", next)
	}
	if s := rq.q.Get("start-after"); s != "" {
		x.text("StartAfter", q.name(s))
	}
	if err := rq.contents(x, q, rows, rq.q.Get("fetch-owner") == "true"); err != nil {
		rq.internal(err)
		return
	}
	rq.sendXML(http.StatusOK, x)
}

// pageV2 returns one page, the token of the next one, and whether token is
// valid.
func (rq *request) pageV2(q listQuery, after, token string) (rows []row, next string, ok bool) {
	if rq.quirks.ListOrder != "" {
		rows, next, ok = rq.orderedRows(q, token)
	} else {
		if rq.q.Has("continuation-token") {
			if after, ok = parseToken(token); !ok {
				return nil, "", false
			}
		}
		if rq.quirks.ListEmptyPage && token == "" {
			return nil, makeToken("\x00"), true
		}
		var more bool
		if rows, more = rq.rows(q, after); more {
			next = makeToken(rows[len(rows)-1].key)
		}
		ok = true
	}
	if rq.quirks.ListLoop && next == "" && len(rows) > 0 {
		next = makeToken("\x00")
	}
	return rows, next, ok
}

func (rq *request) listV1() {
	q, e := rq.listQuery()
	if e != nil {
		rq.fail(e)
		return
	}
	marker := rq.q.Get("marker")
	rows, more := rq.rows(q, marker)
	x := newXML("ListBucketResult", s3Namespace)
	rq.listHead(x, q, more)
	x.text("Marker", q.name(marker))
	if more && q.delimiter != "" {
		x.text("NextMarker", q.name(rows[len(rows)-1].key))
	}
	if err := rq.contents(x, q, rows, true); err != nil {
		rq.internal(err)
		return
	}
	rq.sendXML(http.StatusOK, x)
}

func (rq *request) listVersions() {
	q, e := rq.listQuery()
	if e != nil {
		rq.fail(e)
		return
	}
	rows, more := rq.versionRows(q, rq.q.Get("key-marker"), rq.q.Get("version-id-marker"))
	x := newXML("ListVersionsResult", s3Namespace)
	rq.listHead(x, q, more)
	x.text("KeyMarker", q.name(rq.q.Get("key-marker")))
	x.text("VersionIdMarker", rq.q.Get("version-id-marker"))
	if more {
		last := rows[len(rows)-1]
		x.text("NextKeyMarker", q.name(last.key))
		if !last.prefix {
			x.text("NextVersionIdMarker", last.v.id)
		}
	}
	for _, r := range rows {
		if r.prefix {
			x.start("CommonPrefixes")
			x.text("Prefix", q.name(r.key))
			x.end()
			continue
		}
		if err := rq.versionRow(x, q, r); err != nil {
			rq.internal(err)
			return
		}
	}
	rq.sendXML(http.StatusOK, x)
}

// versionItem is a row of ListObjectVersions.
type versionItem struct {
	row
	latest bool
}

func (rq *request) versionRow(x *xmlDoc, q listQuery, r versionItem) error {
	name := "Version"
	if r.v.marker {
		name = "DeleteMarker"
	}
	x.start(name)
	x.text("Key", q.name(r.key))
	x.text("VersionId", r.v.id)
	x.text("IsLatest", strconv.FormatBool(r.latest))
	x.time("LastModified", r.v.modified)
	if !r.v.marker {
		etag, err := r.v.etagOf()
		if err != nil {
			return err
		}
		x.text("ETag", etag)
		x.num("Size", r.v.content.size)
		x.text("StorageClass", storageClass(r.v))
	}
	x.end()
	return nil
}

// versionRows returns one page of versions: keys in order, and the versions of
// a key from the newest to the oldest.
func (rq *request) versionRows(q listQuery, keyMarker, idMarker string) (rows []versionItem, more bool) {
	s := &rq.o.store
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[rq.bucket]
	if b == nil {
		return nil, false
	}
	all := listQuery{prefix: q.prefix, delimiter: q.delimiter, max: len(b.objects)}
	keys := b.sortedLocked()
	if idMarker != "" { // continue inside the versions of keyMarker
		passed := false
		for i, v := range b.objects[keyMarker] {
			if passed {
				if len(rows) == q.max {
					return rows, true
				}
				rows = append(rows, versionItem{row{item{key: keyMarker}, v}, i == 0})
			}
			passed = passed || v.id == idMarker
		}
	}
	items, _ := all.page(keys, keyMarker)
	for _, it := range items {
		if it.prefix {
			if len(rows) == q.max {
				return rows, len(rows) > 0
			}
			rows = append(rows, versionItem{row: row{item: it}})
			continue
		}
		for i, v := range b.objects[it.key] {
			if len(rows) == q.max {
				return rows, len(rows) > 0
			}
			rows = append(rows, versionItem{row{it, v}, i == 0})
		}
	}
	return rows, false
}
