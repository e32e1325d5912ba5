package testorigin

import (
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"math"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// ETagForm is a server's spelling of ETags.
type ETagForm string

// The forms of an ETag.
const (
	ETagQuoted ETagForm = ""      // "0123...", as in S3 and RFC 9110
	ETagBare   ETagForm = "bare"  // 0123..., without quotes
	ETagWeak   ETagForm = "weak"  // W/"0123..."; If-Match then never holds (RFC 9110 section 13.1.1)
	ETagNone   ETagForm = "none"  // no ETag; If-Match then never holds
	ETagOther  ETagForm = "other" // another ETag than in the other operations
)

// Orders of a listing.
const (
	OrderFiler  = "filer"  // as in a walk of a file system, where "a/" sorts as "a", before "a.txt"
	OrderRandom = "random" // random, but the same one each time
)

// Quirks are differences of an origin from S3 itself. Each was seen in a real
// server, or in a proxy or gateway before one; docs/s3-quirks.md says where.
// The zero value is S3. Faults of single requests (silence, a proxy's page, an
// empty body) belong to the fault script: see ActStall, ActPage and ActEmpty.
type Quirks struct {
	// GetETag, HeadETag and ListETag are the spellings of ETags in the
	// operations.
	GetETag, HeadETag, ListETag ETagForm
	// IfMatch is the only spelling of an ETag that If-Match may have, "quoted"
	// or "bare"; "" allows both.
	IfMatch string
	// IgnoreConditions ignores If-Match, If-Unmodified-Since and the other
	// conditions.
	IgnoreConditions bool
	// NoDates leaves out Last-Modified.
	NoDates bool

	// ListOrder is the order of ListObjectsV2: "" by key, OrderFiler or
	// OrderRandom.
	ListOrder string
	// ListPage is the size of the largest page of a listing; 0 means 1,000.
	ListPage int
	// ListEmptyPage returns a first page without entries, and a valid token.
	ListEmptyPage bool
	// ListLoop makes the last page of ListObjectsV2 return a token for the
	// first page.
	ListLoop bool
	// ListPlain ignores encoding-type=url.
	ListPlain bool

	// Redirect is the status of a redirect for S3 requests whose operation
	// matches RedirectOps, a glob whose default is GetObject. The Location is
	// below RedirectTo, a URL whose default is the origin's second host, which
	// serves the request.
	Redirect                int
	RedirectOps, RedirectTo string

	// AcceptEncoding changes the header of that name, as a proxy may, before
	// the signature is checked: "drop" removes it, another value replaces it,
	// and "" leaves it.
	AcceptEncoding string
	// HeadStatus answers HeadObject with this status.
	HeadStatus int
	// BareRange answers 416 without the size of the object.
	BareRange bool
	// Rights are the permissions of every client, such as s3:GetObject, or nil
	// for all permissions. Reading with versionId needs s3:GetObjectVersion,
	// and a missing key is 403 without s3:ListBucket.
	Rights []string
	// Skew is the server's clock minus the real time.
	Skew time.Duration
	// NoVersions refuses requests with a versionId.
	NoVersions bool
	// NoTrailers refuses uploads with a checksum in the trailer.
	NoTrailers bool
}

// quirkField is a quirk with its name in the text form. Exactly one of the
// pointers is set.
type quirkField struct {
	name   string
	text   *string
	etag   *ETagForm
	number *int
	flag   *bool
	list   *[]string
	span   *time.Duration
	among  []string // values of text, if they are limited
}

func (q *Quirks) fields() []quirkField {
	return []quirkField{
		{name: "get-etag", etag: &q.GetETag},
		{name: "head-etag", etag: &q.HeadETag},
		{name: "list-etag", etag: &q.ListETag},
		{name: "if-match", text: &q.IfMatch, among: []string{"", "quoted", "bare"}},
		{name: "ignore-conditions", flag: &q.IgnoreConditions},
		{name: "no-dates", flag: &q.NoDates},
		{name: "list-order", text: &q.ListOrder, among: []string{"", OrderFiler, OrderRandom}},
		{name: "list-page", number: &q.ListPage},
		{name: "list-empty-page", flag: &q.ListEmptyPage},
		{name: "list-loop", flag: &q.ListLoop},
		{name: "list-plain", flag: &q.ListPlain},
		{name: "redirect", number: &q.Redirect},
		{name: "redirect-ops", text: &q.RedirectOps},
		{name: "redirect-to", text: &q.RedirectTo},
		{name: "accept-encoding", text: &q.AcceptEncoding},
		{name: "head-status", number: &q.HeadStatus},
		{name: "bare-range", flag: &q.BareRange},
		{name: "rights", list: &q.Rights},
		{name: "skew", span: &q.Skew},
		{name: "no-versions", flag: &q.NoVersions},
		{name: "no-trailers", flag: &q.NoTrailers},
	}
}

// QuirkNames returns the names of all quirks in the text form.
func QuirkNames() []string {
	var out []string
	for _, f := range new(Quirks).fields() {
		out = append(out, f.name)
	}
	return out
}

// ParseQuirks reads quirks in text form: words of the form name=value, or the
// name alone for a bool.
//
//	list-etag=bare if-match=quoted list-order=filer list-page=2 redirect=307 no-versions rights=s3:GetObject,s3:ListBucket
func ParseQuirks(s string) (Quirks, error) {
	var q Quirks
	fields := q.fields()
	for word := range strings.FieldsSeq(s) {
		name, value, given := strings.Cut(word, "=")
		i := slices.IndexFunc(fields, func(f quirkField) bool { return f.name == name })
		if i < 0 {
			return q, fmt.Errorf("testorigin: quirk %q is unknown: use %s", name, strings.Join(QuirkNames(), ", "))
		}
		if err := fields[i].set(value, given); err != nil {
			return q, fmt.Errorf("testorigin: quirk %q: %w", word, err)
		}
	}
	return q, q.Validate()
}

func (f *quirkField) set(value string, given bool) (err error) {
	if given != (f.flag == nil) {
		if given {
			return fmt.Errorf("it is on or off: write %s alone", f.name)
		}
		return fmt.Errorf("it needs a value: write %s=VALUE", f.name)
	}
	switch {
	case f.flag != nil:
		*f.flag = true
	case f.text != nil:
		*f.text = value
	case f.etag != nil:
		*f.etag = ETagForm(value)
	case f.number != nil:
		*f.number, err = strconv.Atoi(value)
	case f.list != nil:
		*f.list = strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
		if *f.list == nil {
			*f.list = []string{}
		}
	case f.span != nil:
		*f.span, err = time.ParseDuration(value)
	}
	return err
}

// Validate returns the first mistake in the quirks.
func (q Quirks) Validate() error {
	for _, f := range q.fields() {
		switch {
		case f.etag != nil && !slices.Contains([]ETagForm{ETagQuoted, ETagBare, ETagWeak, ETagNone, ETagOther}, *f.etag):
			return fmt.Errorf("testorigin: quirk %s=%s: use bare, weak, none or other", f.name, *f.etag)
		case f.among != nil && !slices.Contains(f.among, *f.text):
			return fmt.Errorf("testorigin: quirk %s=%s: use %s", f.name, *f.text, strings.Join(f.among[1:], " or "))
		}
	}
	switch {
	case q.ListPage < 0 || q.ListPage > maxListKeys:
		return fmt.Errorf("testorigin: quirk list-page=%d: use 1 to %d", q.ListPage, maxListKeys)
	case q.Redirect != 0 && (q.Redirect < 300 || q.Redirect > 399):
		return fmt.Errorf("testorigin: quirk redirect=%d: use a status from 300 to 399", q.Redirect)
	case q.HeadStatus != 0 && (q.HeadStatus < 200 || q.HeadStatus > 599):
		return fmt.Errorf("testorigin: quirk head-status=%d: use a status from 200 to 599", q.HeadStatus)
	}
	if u, err := url.Parse(q.RedirectTo); q.RedirectTo != "" && (err != nil || u.Host == "") {
		return fmt.Errorf("testorigin: quirk redirect-to=%s: use a URL", q.RedirectTo)
	}
	return nil
}

// SetQuirks replaces the quirks. Running requests keep the old ones. It panics
// if q is invalid; ParseQuirks returns an error for quirks from outside.
func (o *Origin) SetQuirks(q Quirks) {
	if err := q.Validate(); err != nil {
		panic(err)
	}
	o.quirks.Store(&q)
}

// now returns the time of the server's clock, which may be skewed.
func (o *Origin) now() time.Time { return o.opts.Now().Add(o.quirks.Load().Skew) }

// hop changes the request as a proxy in front of the server does.
func (q *Quirks) hop(r *http.Request) {
	switch q.AcceptEncoding {
	case "":
	case "drop":
		r.Header.Del("Accept-Encoding")
	default:
		r.Header.Set("Accept-Encoding", q.AcceptEncoding)
	}
}

// spell writes an ETag, given with quotes, in a form.
func (f ETagForm) spell(etag string) string {
	bare := strings.Trim(etag, `"`)
	switch f {
	case ETagBare:
		return bare
	case ETagWeak:
		return "W/" + etag
	case ETagNone:
		return ""
	case ETagOther:
		return `"0` + bare + `"`
	case ETagQuoted:
	}
	return etag
}

// matches evaluates the list of If-Match against an ETag, given with quotes.
func (q *Quirks) matches(list, etag string) bool {
	form := q.GetETag
	if list == "*" {
		return true
	}
	if form == ETagWeak || form == ETagNone {
		return false
	}
	quoted := strings.HasPrefix(list, `"`)
	if q.IfMatch == "quoted" && !quoted || q.IfMatch == "bare" && quoted {
		return false
	}
	if form == ETagOther {
		etag = form.spell(etag)
	}
	return etagMatches(list, etag)
}

// right returns the permission that the request needs.
func (rq *request) right() string {
	version := ""
	if rq.q.Get("versionId") != "" {
		version = "Version"
	}
	switch rq.op {
	case opListBuckets:
		return "s3:ListAllMyBuckets"
	case opHeadBucket, opListObjects, opListObjectsV2:
		return "s3:ListBucket"
	case opListObjectVersions:
		return "s3:ListBucketVersions"
	case opListMultipartUploads:
		return "s3:ListBucketMultipartUploads"
	case opGetObject, opHeadObject:
		return "s3:GetObject" + version
	case opGetObjectAttributes:
		return "s3:GetObject" + version + "Attributes"
	case opDeleteObject, opDeleteObjects:
		return "s3:DeleteObject" + version
	case opPutObject, opCopyObject, opCreateMultipartUpload, opUploadPart, opUploadPartCopy, opCompleteMultipartUpload:
		return "s3:PutObject"
	case opListParts:
		return "s3:ListMultipartUploadParts"
	}
	return "s3:" + rq.op
}

// may reports whether clients have a right.
func (q *Quirks) may(right string) bool { return q.Rights == nil || slices.Contains(q.Rights, right) }

// applyQuirks applies the quirks between the check of the signature and the
// handler. It returns nil if the handler should run.
func (rq *request) applyQuirks() *s3Error {
	q := rq.quirks
	if right := rq.right(); !q.may(right) {
		return s3err(http.StatusForbidden, "AccessDenied", "The identity is not authorized to perform: "+right)
	}
	ops := q.RedirectOps
	if ops == "" {
		ops = opGetObject
	}
	if q.Redirect != 0 && glob(ops, rq.op) && (!rq.second || q.RedirectTo != "") {
		to := q.RedirectTo
		if to == "" {
			to = "http://" + rq.o.host2
		}
		e := s3err(q.Redirect, "TemporaryRedirect", "Please re-send this request to the specified temporary endpoint.")
		e.header = map[string]string{"Location": strings.TrimSuffix(to, "/") + rq.r.URL.RequestURI()}
		return e
	}
	switch {
	case q.HeadStatus != 0 && rq.op == opHeadObject:
		return s3err(q.HeadStatus, codeOf(q.HeadStatus), "HEAD is answered so.")
	case q.NoVersions && rq.q.Has("versionId"):
		return s3err(http.StatusNotImplemented, "NotImplemented", "Versions are not implemented")
	case q.NoTrailers && rq.r.Header.Get("X-Amz-Trailer") != "":
		return s3err(http.StatusBadRequest, "InvalidArgument", "x-amz-trailer is not supported")
	}
	return nil
}

// applyHeaderQuirks applies the quirks to the headers of an answer before it is
// sent.
func (rq *request) applyHeaderQuirks() {
	q, h := rq.quirks, rq.w.Header()
	if q.Skew != 0 {
		h.Set("Date", rq.o.now().UTC().Format(http.TimeFormat))
	}
	if rq.isRegistry {
		return
	}
	form := q.GetETag
	if rq.op == opHeadObject {
		form = q.HeadETag
	}
	if etag := h.Get("Etag"); etag != "" && form != ETagQuoted && (rq.op == opGetObject || rq.op == opHeadObject) {
		if etag = form.spell(etag); etag == "" {
			h.Del("Etag")
		} else {
			h.Set("Etag", etag)
		}
	}
	if q.NoDates {
		h.Del("Last-Modified")
	}
}

// orderedRows returns one page of a listing in another order than by key. Its
// tokens count entries.
func (rq *request) orderedRows(q listQuery, token string) (page []row, next string, ok bool) {
	from := 0
	if token != "" {
		raw, err := base64.URLEncoding.DecodeString(token)
		if err != nil || len(raw) < 2 || raw[0] != '1' && raw[0] != '2' {
			return nil, "", false
		}
		if raw[0] == '2' { // else the token of ListLoop, for the first page
			if from, err = strconv.Atoi(string(raw[1:])); err != nil || from < 0 {
				return nil, "", false
			}
		}
	}
	limit := q.max
	q.max = math.MaxInt
	all, _ := rq.rows(q, "")
	rank := func(r row) string { return strings.TrimRight(r.key, "/") }
	if rq.quirks.ListOrder == OrderRandom {
		rank = func(r row) string {
			h := fnv.New64a()
			_, _ = h.Write([]byte(r.key))
			return strconv.FormatUint(mix(h.Sum64()), 36)
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return rank(all[i]) < rank(all[j]) })
	from = min(from, len(all))
	to := min(from+limit, len(all))
	for i, r := range all {
		if (i < from || i >= to) && r.v != nil {
			r.v.content.release()
		}
	}
	if to < len(all) {
		next = base64.URLEncoding.EncodeToString([]byte("2" + strconv.Itoa(to)))
	}
	return all[from:to], next, true
}
