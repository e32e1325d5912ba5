package bytesize

import "testing"

func TestParse(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int64{
		"0": 0, "5": 5, "7B": 7, "1b": 1,
		"1K": 1 << 10, "1k": 1 << 10, "64M": 64 << 20, "3G": 3 << 30, "2T": 2 << 40,
		"1KiB": 1 << 10, "64MiB": 64 << 20, "64mib": 64 << 20, "1GiB": 1 << 30, "2TiB": 2 << 40,
		"1KB": 1000, "1kB": 1000, "64MB": 64_000_000, "64mb": 64_000_000, "2 GB": 2_000_000_000, "1TB": 1_000_000_000_000,
		"9223372036854775807": 1<<63 - 1,
	} {
		if n, err := Parse(s); err != nil || n != want {
			t.Errorf("Parse(%q) = %d, %v; want %d", s, n, err, want)
		}
	}
	for _, s := range []string{
		"", " ", "M", "MiB", "-1", "+1", "x", "lots", "1X", "1Q", "1MM", "1KK", "1iB", "1BB", "1MBB", "1.5G", "0x10", "1_000",
		"99999999999T", "9223372036854775808", "99999999999999999999", "9007199254740992KiB",
	} {
		if n, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %d, want an error", s, n)
		}
	}
}

func TestParseZeroAndNone(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int64{"none": -1, "1M": 1 << 20, "0": 0, "None": 0, "0MiB": 0} {
		if n, err := ParseOrNone(s); n != want || (err == nil) != (want != 0) {
			t.Errorf("ParseOrNone(%q) = %d, %v", s, n, err)
		}
	}
	if n, err := ParsePositive("none"); err == nil {
		t.Errorf("ParsePositive accepts none as %d", n)
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0", 1000: "1000", 1024: "1KiB", 64 << 20: "64MiB", 5 << 30: "5GiB", 1 << 60: "1048576TiB", -1: "-1",
	} {
		if got := Format(n); got != want {
			t.Errorf("Format(%d) = %q, want %q", n, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("64MiB")
	f.Add("2 GB")
	f.Add("9223372036854775807")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := Parse(s)
		if err != nil {
			return
		}
		if n < 0 {
			t.Fatalf("Parse(%q) = %d", s, n)
		}
		if again, err := Parse(Format(n)); err != nil || again != n {
			t.Errorf("Parse(%q) = %d, %v; want %d", Format(n), again, err, n)
		}
	})
}
