package limits_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/limits"
)

func TestParse(t *testing.T) {
	var l soci.Limits
	for _, list := range []string{"size=2TiB, ratio=none", "entries=5,depth=6,namelen=7,attributes=8K,metadata=9MiB,window=10MiB,ratiofree=11GiB"} {
		if err := limits.Parse(list, &l); err != nil {
			t.Fatalf("%s: %v", list, err)
		}
	}
	want := soci.Limits{Entries: 5, Depth: 6, NameLen: 7, TotalSize: 2 << 40, Attributes: 8 << 10, Metadata: 9 << 20, Window: 10 << 20, Ratio: -1, RatioFree: 11 << 30}
	if l != want {
		t.Errorf("%+v, want %+v", l, want)
	}
	none := strings.NewReplacer(", ", "=none,").Replace(limits.Names) + "=none"
	if err := limits.Parse(none, &l); err != nil {
		t.Fatal(err)
	}
	for f, v := range reflect.ValueOf(l).Fields() {
		if v.CanInt() && v.Int() != -1 || v.CanFloat() && v.Float() != -1 {
			t.Errorf("%s: %v, want no limit; does %q name it?", f.Name, v, limits.Names)
		}
	}
	for list, say := range map[string]string{
		"": "name=value", "size": "name=value", "size=2TiB,": "name=value", "speed=1": "there are entries", "entries=0": "from 1 to",
		"entries=-1": "from 1 to", "depth=9999999999": "from 1 to", "ratio=0.5": "1 or more", "ratio=NaN": "1 or more", "ratio=Inf": "1 or more", "size=much": "64MiB",
	} {
		if err := limits.Parse(list, &l); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v, want %q", list, err, say)
		}
	}
}
