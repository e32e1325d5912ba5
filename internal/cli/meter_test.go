package cli

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

func TestMeterPlainLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		items := func() string { return "1 of 2 files" }
		details := func() string { return "; file 2 at 10 %" }
		for how, want := range map[Progress]string{
			ProgressNone: "",
			ProgressPlain: "cast: job: 100.0 MB\n" +
				"cast: 40.0 MB of 100.0 MB, 8.0 MB/s, 8s left\n" +
				"cast: 60.0 MB of 100.0 MB, 1 of 2 files, 6.0 MB/s, 7s left; file 2 at 10 %\n",
			ProgressAuto: "cast: job: 100.0 MB\n" + // a buffer is not a terminal
				"cast: 40.0 MB of 100.0 MB, 8.0 MB/s, 8s left\n" +
				"cast: 60.0 MB of 100.0 MB, 1 of 2 files, 6.0 MB/s, 7s left; file 2 at 10 %\n",
		} {
			var out bytes.Buffer
			m := NewMeter(&out, "cast", how)
			if m.On() != (how != ProgressNone) {
				t.Errorf("%s: on is %v", how, m.On())
			}
			m.Set(1, nil, nil) // before the start
			m.Start("job", ": 100.0 MB", 100e6)
			m.Set(10e6, nil, nil) // too early for a line
			time.Sleep(LineEvery)
			m.Set(40e6, nil, nil)
			m.Set(50e6, nil, nil)
			time.Sleep(LineEvery)
			m.Set(60e6, items, details)
			m.Describe("ignored without a bar")
			m.End()
			if out.String() != want {
				t.Errorf("%s:\n%s\nwant\n%s", how, &out, want)
			}
		}
	})
}

func TestMeterBar(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	m := NewMeter(&out, "cast", ProgressAuto)
	m.tty = true
	m.Start("job", "", 100)
	m.Set(100, nil, nil)
	m.Describe("done")
	m.End()
	if !bytes.Contains(out.Bytes(), []byte("job")) || bytes.Contains(out.Bytes(), []byte("cast: ")) {
		t.Errorf("%q", &out)
	}
}

func TestProgressFlags(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]Progress{"": ProgressAuto, "-q": ProgressNone, "--progress=plain": ProgressPlain, "--progress=plain -q": ProgressNone, "--progress=false": ProgressNone} {
		s := newSample()
		var args []string
		for _, a := range bytes.Fields([]byte(line)) {
			args = append(args, string(a))
		}
		if _, err := s.Parse(args, io.Discard); err != nil {
			t.Fatal(err)
		}
		if m := s.Meter(io.Discard); m.how != want {
			t.Errorf("%q: %s, want %s", line, m.how, want)
		}
	}
}
