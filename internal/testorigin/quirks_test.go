package testorigin

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// listed is a page of ListObjectsV2.
type listed struct {
	EncodingType, NextContinuationToken string
	Contents                            []struct{ Key, ETag string }
	CommonPrefixes                      []struct{ Prefix string }
}

// walk lists a bucket through all of its pages, at most ten.
func walk(t *testing.T, o *Origin, query string) (names []string, pages int) {
	t.Helper()
	token := ""
	for pages = 1; pages <= 10; pages++ {
		u := o.URL() + "/b?list-type=2" + query
		if token != "" {
			u += "&continuation-token=" + token
		}
		var l listed
		if err := xml.Unmarshal([]byte(ask(t, http.MethodGet, u, nil).body), &l); err != nil {
			t.Fatal(err)
		}
		for _, c := range l.Contents {
			names = append(names, c.Key)
		}
		for _, c := range l.CommonPrefixes {
			names = append(names, c.Prefix)
		}
		if token = l.NextContinuationToken; token == "" {
			return names, pages
		}
	}
	return names, pages
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) String() string {
	return fmt.Sprint(r.status, " etag=", r.header.Get("Etag"), " n=", len(r.body))
}

// ask makes a request without following redirects.
func ask(t *testing.T, method, url string, header map[string]string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(body)}
}

func quirky(t *testing.T, text string) *Origin {
	t.Helper()
	q, err := ParseQuirks(text)
	if err != nil {
		t.Fatal(err)
	}
	o, err := Start(Options{Anonymous: true, Quirks: q})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	if err := o.CreateBucket("b", BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"a.txt", "a/x", "a/y", "z z"} {
		if err := o.Put("b", k, []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// The MD5 of 0123456789.
const digitsMD5 = "781e5e245d69b566979b86e28d23f2c7"

func TestQuirksOfObjects(t *testing.T) {
	none := map[string]string{}
	quoted, bare := map[string]string{"If-Match": `"` + digitsMD5 + `"`}, map[string]string{"If-Match": digitsMD5}
	for _, tc := range []struct {
		quirks, method string
		header         map[string]string
		want           string
	}{
		{"", "GET", none, `200 etag="` + digitsMD5 + `" n=10`},
		{"get-etag=bare", "GET", none, "200 etag=" + digitsMD5 + " n=10"},
		{"get-etag=bare", "HEAD", none, `200 etag="` + digitsMD5 + `" n=0`},
		{"head-etag=weak", "HEAD", none, `200 etag=W/"` + digitsMD5 + `" n=0`},
		{"get-etag=none", "GET", none, "200 etag= n=10"},
		{"get-etag=other", "GET", none, `200 etag="0` + digitsMD5 + `" n=10`},
		{"", "GET", bare, `200 etag="` + digitsMD5 + `" n=10`},
		{"if-match=quoted", "GET", bare, "412 etag= n="},
		{"if-match=quoted", "GET", quoted, "200 "},
		{"if-match=bare", "GET", quoted, "412 "},
		{"get-etag=none", "GET", quoted, "412 "},
		{"get-etag=none ignore-conditions", "GET", quoted, "200 "},
		{"head-status=403", "HEAD", none, "403 "},
		{"head-status=403", "GET", none, "200 "},
		{"rights=s3:ListBucket", "GET", none, "403 "},
		{"rights=s3:GetObject", "GET", none, "200 "},
		{"redirect=307", "GET", none, "307 "},
		{"redirect=307 redirect-ops=HeadObject", "GET", none, "200 "},
	} {
		o := quirky(t, tc.quirks)
		got := ask(t, tc.method, o.URL()+"/b/a.txt", tc.header)
		if !strings.HasPrefix(got.String(), tc.want) {
			t.Errorf("%s: %s with %v: %v, want %s", tc.quirks, tc.method, tc.header, got, tc.want)
		}
	}
}

func TestQuirksOfRequests(t *testing.T) {
	o := quirky(t, "bare-range no-versions no-dates skew=2h rights=s3:GetObject,s3:GetObjectVersion")
	got := ask(t, "GET", o.URL()+"/b/a.txt", map[string]string{"Range": "bytes=50-60"})
	if got.status != 416 || got.header.Get("Content-Range") != "" || strings.Contains(got.body, "10") {
		t.Errorf("beyond the end: %v %v %s", got, got.header, got.body)
	}
	date, err := http.ParseTime(got.header.Get("Date"))
	if ahead := time.Until(date); err != nil || ahead < time.Hour || ahead > 3*time.Hour {
		t.Errorf("date %v, %v", date, err)
	}
	if got := ask(t, "GET", o.Presign("GET", "b", "a.txt", time.Hour), nil); got.status != 403 {
		t.Errorf("a URL that the server's clock calls expired: %v", got)
	}
	if got := ask(t, "GET", o.URL()+"/b/a.txt?versionId=1", nil); got.status != 501 {
		t.Errorf("version: %v", got)
	}
	if got := ask(t, "GET", o.URL()+"/b/a.txt", nil); got.header.Get("Last-Modified") != "" {
		t.Errorf("dated: %v", got.header)
	}
	if got := ask(t, "GET", o.URL()+"/b/missing", nil); got.status != 403 {
		t.Errorf("missing key without s3:ListBucket: %v", got)
	}
	o.SetQuirks(Quirks{Redirect: 302})
	got = ask(t, "GET", o.URL()+"/b/a.txt?x=1", nil)
	to := got.header.Get("Location")
	if got.status != 302 || to != "http://"+o.RedirectHost()+"/b/a.txt?x=1" {
		t.Fatalf("redirect: %v to %q", got, to)
	}
	if got := ask(t, "GET", to, nil); got.status != 200 || got.body != "0123456789" {
		t.Errorf("second host: %v", got)
	}
	o.SetFaults(Fault{Op: "GetObject", Nth: 2, Action: ActPage}, Fault{Op: "GetObject", Nth: 3, Action: ActEmpty}, Fault{Op: "List*", Action: ActEmpty})
	o.SetQuirks(Quirks{})
	if got := ask(t, "GET", o.URL()+"/b/a.txt", nil); got.body != "0123456789" {
		t.Errorf("first: %v", got)
	}
	if got := ask(t, "GET", o.URL()+"/b/a.txt", nil); got.status != 200 || got.header.Get("Content-Type") != "text/html" || got.body != proxyPage {
		t.Errorf("page: %v %v", got, got.header)
	}
	if got := ask(t, "GET", o.URL()+"/b/a.txt", nil); got.status != 200 || got.body != "" || got.header.Get("Etag") != `"`+digitsMD5+`"` {
		t.Errorf("empty: %v", got)
	}
	if got := ask(t, "GET", o.URL()+"/b?list-type=2", nil); got.status != 200 || got.body != "" {
		t.Errorf("empty listing: %v", got)
	}
}

func TestQuirksOfListings(t *testing.T) {
	for _, tc := range []struct {
		quirks, query, want string
		pages               int
	}{
		{"", "&delimiter=/", "[a.txt z z a/]", 1},
		{"list-page=1", "&delimiter=/", "[a.txt a/ z z]", 3},
		{"list-order=filer list-page=1", "&delimiter=/", "[a/ a.txt z z]", 3},
		{"list-order=random list-page=2", "", "[a/y z z a.txt a/x]", 2},
		{"list-empty-page", "", "[a.txt a/x a/y z z]", 2},
		{"list-plain", "&encoding-type=url", "[a.txt a/x a/y z z]", 1},
		{"", "&encoding-type=url", "[a.txt a/x a/y z+z]", 1},
		{"list-loop", "&prefix=z", "[" + strings.TrimSpace(strings.Repeat("z z ", 10)) + "]", 11},
		{"list-loop list-order=filer", "&prefix=z", "[" + strings.TrimSpace(strings.Repeat("z z ", 10)) + "]", 11},
	} {
		o := quirky(t, tc.quirks)
		if got, pages := walk(t, o, tc.query); fmt.Sprint(got) != tc.want || pages != tc.pages {
			t.Errorf("%s: %v in %d pages, want %s in %d", tc.quirks, got, pages, tc.want, tc.pages)
		}
	}
	for form, want := range map[string]string{"bare": digitsMD5, "none": "", "weak": `W/"` + digitsMD5 + `"`, "other": `"0` + digitsMD5 + `"`} {
		var l listed
		o := quirky(t, "list-etag="+form)
		if err := xml.Unmarshal([]byte(ask(t, "GET", o.URL()+"/b?list-type=2", nil).body), &l); err != nil || l.Contents[0].ETag != want {
			t.Errorf("list-etag=%s: %+v, %v", form, l.Contents, err)
		}
	}
}

// A proxy that rewrites Accept-Encoding breaks only signatures that include it.
func TestQuirkAcceptEncoding(t *testing.T) {
	q, err := ParseQuirks("accept-encoding=drop")
	if err != nil {
		t.Fatal(err)
	}
	o := quirky(t, "")
	for _, signed := range []bool{false, true} {
		for i, quirks := range []Quirks{{}, q, {AcceptEncoding: "gzip, br"}} {
			o.SetQuirks(quirks)
			s := sigv4{accessKey: AccessKey, date: time.Now().UTC().Format("20060102"), region: Region, service: "s3", signed: []string{"host"}, at: time.Now()}
			if signed {
				s.signed = []string{"accept-encoding", "host"}
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, o.URL()+"/b/a.txt", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = o.Host()
			req.Header.Set("Accept-Encoding", "identity")
			req.Header.Set("X-Amz-Date", s.at.UTC().Format(sigTimeFormat))
			req.Header.Set("X-Amz-Content-Sha256", unsignedPayload)
			signature := s.sign(s.signingKey(SecretKey), req, unsignedPayload)
			got := ask(t, http.MethodGet, req.URL.String(), map[string]string{
				"Accept-Encoding": "identity", "X-Amz-Date": req.Header.Get("X-Amz-Date"), "X-Amz-Content-Sha256": unsignedPayload,
				"Authorization": sigAlgorithm + " Credential=" + AccessKey + "/" + s.scope() + ", SignedHeaders=" + strings.Join(s.signed, ";") + ", Signature=" + signature,
			})
			if want := map[bool]int{true: 403, false: 200}[signed && i > 0]; got.status != want {
				t.Errorf("signed %v, quirks %d: %v, want %d", signed, i, got, want)
			}
		}
	}
}

func TestQuirksBadInput(t *testing.T) {
	for text, want := range map[string]string{
		"list-tag=bare":      `quirk "list-tag" is unknown: use get-etag`,
		"list-etag=single":   "use bare, weak, none or other",
		"list-etag":          "write list-etag=VALUE",
		"no-versions=1":      "write no-versions alone",
		"list-order=up":      "use filer or random",
		"list-page=0x":       "invalid syntax",
		"list-page=1001":     "use 1 to 1000",
		"redirect=200":       "use a status from 300 to 399",
		"redirect-to=nobody": "use a URL",
		"head-status=1":      "use a status from 200 to 599",
		"skew=2":             "missing unit",
	} {
		if _, err := ParseQuirks(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := Start(Options{Quirks: Quirks{Redirect: 1}}); err == nil {
		t.Error("invalid quirks were accepted")
	}
}
