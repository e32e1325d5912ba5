package bytesize

import "testing"

func TestParse(t *testing.T) {
	for s, want := range map[string]int64{"5": 5, "64MiB": 64 << 20, "64M": 64 << 20, "2 GB": 2 << 30, "1k": 1 << 10} {
		if n, err := Parse(s); err != nil || n != want {
			t.Errorf("%q: %d, %v", s, n, err)
		}
	}
	for s, want := range map[string]int64{"none": -1, "1M": 1 << 20, "0": 0} {
		if n, err := ParseOrNone(s); n != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "M", "0", "-1", "1X", "1MM", "99999999999T", "1.5G"} {
		if n, err := Parse(s); err == nil {
			t.Errorf("%q: %d", s, n)
		}
	}
}
