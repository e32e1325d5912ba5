package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/penstock/penstock/s3stream"
)

func TestDeliveredBelievesOnlyGoodReports(t *testing.T) {
	t.Parallel()
	good := s3stream.WorkerReport{Name: "w1", Bytes: 7, HashOK: true}
	bad := s3stream.WorkerReport{Name: "w2", Bytes: 7}
	cases := []struct {
		name    string
		workers []s3stream.WorkerReport
		n       int64
		text    string
	}{
		{"two good ones", []s3stream.WorkerReport{good, good}, 14, ""},
		{"a wrong hash", []s3stream.WorkerReport{good, bad}, 0, "w2"},
		{"one missing", []s3stream.WorkerReport{good}, 0, "1 workers"},
	}
	for _, c := range cases {
		raw, err := json.Marshal(s3stream.Report{Workers: c.workers})
		if err != nil {
			t.Fatal(err)
		}
		n, err := delivered(raw, 2)
		if n != c.n || (err == nil) != (c.text == "") || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %d, %v", c.name, n, err)
		}
	}
	if _, err := delivered([]byte("no report"), 2); err == nil {
		t.Error("text that is no report was believed")
	}
}

func TestOptionsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"x"}, {"-rounds", "0"}, {"-size", "1"}, {"-workers", "0"}, {"-nonsense"}} {
		if _, err := parseOptions(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
