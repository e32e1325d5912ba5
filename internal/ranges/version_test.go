package ranges

import (
	"testing"
	"time"
)

func TestSamePin(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{`etag:"7f"`, `etag:"7f"`, true},
		{`etag:7f`, `etag:"7f"`, true},     // a listing without quotes
		{`etag:W/"7f"`, `etag:"7f"`, true}, // a proxy that could have compressed
		{`etag:W/7f`, `etag: "7f" `, true}, // both
		{`etag:"7f"`, `etag:"7e"`, false},  // another version
		{`etag:"7f"`, `etag:"7F"`, false},  // tags are case-sensitive
		{`etag:"7f`, `etag:"7f"`, false},   // half a pair of quotes belongs to the tag
		{`etag:`, `etag:`, true},           // equal strings
		{`etag:`, `etag:""`, false},        // an empty tag is not the same as any tag
		{`version:7f`, `etag:"7f"`, false}, // kinds differ
		{`version:"7f"`, `version:7f`, false},
		{`modified:Tue, 01 Dec 2026 10:00:00 GMT`, `modified:Tue, 01 Dec 2026 10:00:00 GMT`, true},
		{`modified:Tue, 01 Dec 2026 10:00:00 GMT`, `modified:Tue, 01 Dec 2026 10:00:01 GMT`, false},
	} {
		if got := SamePin(c.a, c.b); got != c.want || SamePin(c.b, c.a) != c.want {
			t.Errorf("%s and %s: %v", c.a, c.b, got)
		}
	}
}

func TestSameVersion(t *testing.T) {
	at := time.Date(2026, 12, 1, 10, 0, 0, 123e6, time.UTC)
	listed := Version{ETag: "7f", Modified: at, Size: 5}
	for _, c := range []struct {
		w    Version
		want bool
	}{
		{Version{ETag: `"7f"`, Modified: at, Size: 5}, true},
		{Version{ETag: `"7f"`, Modified: at.Add(time.Hour), Size: 5}, true}, // metadata was set again
		{Version{ETag: `"7e"`, Modified: at, Size: 5}, false},
		{Version{Modified: at.Truncate(time.Second), Size: 5}, true}, // a HEAD without a tag, in whole seconds
		{Version{Modified: at.Add(time.Second), Size: 5}, false},
		{Version{Modified: at, Size: 6}, false},
	} {
		if got := listed.Same(c.w); got != c.want || c.w.Same(listed) != c.want {
			t.Errorf("%+v: %v", c.w, got)
		}
	}
}
