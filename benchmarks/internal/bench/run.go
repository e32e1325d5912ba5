package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Contestant is a program that does the work of a case once and exits.
type Contestant struct {
	Name string
	Ours bool
	Argv []string
	Env  []string      // added to this process's environment
	Stop time.Duration // when to kill it; DefaultStop if 0
}

// DefaultStop ends a contestant that hangs. The slowest healthy run here takes
// under 20 s; a peer that waits for ever must not eat the ten minutes of an area.
const DefaultStop = 60 * time.Second

// Report is the JSON line that a contestant prints when it is done, the last
// line of its standard output.
type Report struct {
	Bytes    int64              `json:"bytes"`              // delivered to the consumer
	Requests int64              `json:"requests,omitempty"` // as the client counts them
	Seconds  float64            `json:"seconds"`            // the work alone, without the start of the process
	Outcome  string             `json:"outcome"`            // OutcomeOK or another word
	Error    string             `json:"error,omitempty"`
	MaxRSS   int64              `json:"max_rss,omitempty"` // bytes; the process's own VmHWM
	Extra    map[string]float64 `json:"extra,omitempty"`
}

// Outcomes of a run.
const (
	OutcomeOK      = "ok"
	OutcomeError   = "error"   // an error, as it should be reported
	OutcomeTyped   = "typed"   // an error that a program can branch on
	OutcomeCorrupt = "corrupt" // success was claimed and the bytes are wrong
	OutcomeHung    = "hung"    // killed after Stop
)

// Sample is one run of one contestant.
type Sample struct {
	Round   int           `json:"round"`
	Wall    time.Duration `json:"wall_ns"` // the work: Report.Seconds, or the life of the process
	CPU     time.Duration `json:"cpu_ns"`  // user + system, process tree
	MaxRSS  int64         `json:"max_rss"` // bytes, process tree
	Bytes   int64         `json:"bytes"`   // delivered
	Outcome string        `json:"outcome"` // one of the Outcome words
	Error   string        `json:"error,omitempty"`
	// Server side, filled by Case.After.
	Requests  int64              `json:"requests,omitempty"`
	BytesSent int64              `json:"bytes_sent,omitempty"`
	BytesTwo  int64              `json:"bytes_sent_again,omitempty"`
	Extra     map[string]float64 `json:"extra,omitempty"`
}

// CPUPerGB is CPU-seconds for 10^9 delivered bytes; 0 when nothing was delivered.
func (s Sample) CPUPerGB() float64 {
	if s.Bytes <= 0 {
		return 0
	}
	return s.CPU.Seconds() / (float64(s.Bytes) / 1e9)
}

// Rate is delivered bytes per second.
func (s Sample) Rate() float64 {
	if s.Wall <= 0 {
		return 0
	}
	return float64(s.Bytes) / s.Wall.Seconds()
}

// Case is one workload that all contestants do.
type Case struct {
	Name        string
	Contestants []Contestant
	Rounds      int // samples kept for each contestant; 5 if 0
	Warmup      int // rounds before that are thrown away
	// Before prepares one run, for example resets counters and sets faults.
	Before func(ctx context.Context, c Contestant) error
	// After adds what the server saw to the sample.
	After func(ctx context.Context, c Contestant, s *Sample) error
	// Line describes a sample for the progress; if nil, by time, CPU for a GB, memory.
	Line func(s Sample) string
	// Deadline ends the rounds early, once each contestant has one sample.
	// Zero: none.
	Deadline time.Time
}

// Measured is a case with the samples of its contestants, in their order.
type Measured struct {
	Name        string     `json:"name"`
	Contestants []string   `json:"contestants"`
	Ours        []bool     `json:"ours"`
	Argv        [][]string `json:"argv"`
	Samples     [][]Sample `json:"samples"`
}

// Of returns the samples of the contestant, nil when it has none.
func (m Measured) Of(name string) []Sample {
	for i, c := range m.Contestants {
		if c == name {
			return m.Samples[i]
		}
	}
	return nil
}

// portable returns a command without the folders of this machine, for readers on
// other machines.
func portable(argv []string) []string {
	out := make([]string, len(argv))
	for i, a := range argv {
		flag, value, isFlag := strings.Cut(a, "=")
		switch {
		case filepath.IsAbs(a):
			a = filepath.Base(a)
		case isFlag && filepath.IsAbs(value):
			a = flag + "=" + filepath.Base(value)
		}
		out[i] = a
	}
	return out
}

// Measure runs the case. Progress gets one line for each run; nil is silent.
func Measure(ctx context.Context, c Case, progress io.Writer) (Measured, error) {
	m := Measured{Name: c.Name, Samples: make([][]Sample, len(c.Contestants))}
	for _, x := range c.Contestants {
		m.Contestants = append(m.Contestants, x.Name)
		m.Ours = append(m.Ours, x.Ours)
		m.Argv = append(m.Argv, portable(x.Argv))
	}
	if progress == nil {
		progress = io.Discard
	}
	rounds := c.Rounds
	if rounds == 0 {
		rounds = 5
	}
	for r := -c.Warmup; r < rounds; r++ {
		if r > 0 && !c.Deadline.IsZero() && time.Now().After(c.Deadline) {
			fmt.Fprintf(progress, "%s: the time is used up after %d of %d rounds\n", c.Name, r, rounds)
			break
		}
		for k := range c.Contestants {
			i := (k + r + c.Warmup) % len(c.Contestants) // each round begins with another contestant
			s, err := runOnce(ctx, c, c.Contestants[i])
			if err != nil {
				return m, fmt.Errorf("%s, %s, round %d: %w", c.Name, c.Contestants[i].Name, r, err)
			}
			s.Round = r
			label := fmt.Sprintf("round %d/%d", r+1, rounds)
			if r < 0 {
				label = "warm-up"
			} else {
				m.Samples[i] = append(m.Samples[i], s)
			}
			line := c.Line
			if line == nil {
				line = progressLine
			}
			fmt.Fprintf(progress, "%s  %-11s %-30s %s  %s\n", c.Name, label, c.Contestants[i].Name, line(s), ending(s))
		}
	}
	return m, nil
}

// ending returns the outcome and the start of the error, if any.
func ending(s Sample) string {
	text, _, _ := strings.Cut(s.Error, "\n")
	if s.Outcome == OutcomeOK || text == "" {
		return s.Outcome
	}
	const most = 100 // bytes; the whole text is in the result
	return s.Outcome + ": " + text[:min(len(text), most)]
}

func progressLine(s Sample) string {
	return fmt.Sprintf("%7.2f s  %6.3f CPU-s/GB  %5d MiB", s.Wall.Seconds(), s.CPUPerGB(), s.MaxRSS>>20)
}

func runOnce(ctx context.Context, c Case, x Contestant) (Sample, error) {
	if c.Before != nil {
		if err := c.Before(ctx, x); err != nil {
			return Sample{}, err
		}
	}
	s, err := Exec(ctx, x)
	if err != nil {
		return s, err
	}
	if c.After != nil {
		err = c.After(ctx, x, &s)
	}
	return s, err
}

// Exec runs one contestant to its end and accounts for it.
func Exec(ctx context.Context, x Contestant) (Sample, error) {
	stop := x.Stop
	if stop == 0 {
		stop = DefaultStop
	}
	if len(x.Argv) == 0 {
		return Sample{}, fmt.Errorf("contestant %q has no command: set Argv", x.Name)
	}
	timed, cancel := context.WithTimeout(ctx, stop)
	defer cancel()
	cmd := exec.CommandContext(timed, x.Argv[0], x.Argv[1:]...)
	cmd.Env = append(os.Environ(), x.Env...)
	var stdout bytes.Buffer
	stderr := &tail{max: 4 << 10}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	// A group of its own, so that its children die with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second

	start := time.Now()
	if err := cmd.Start(); err != nil {
		return Sample{}, err
	}
	rss := watchRSS(cmd.Process.Pid)
	err := cmd.Wait()
	s := Sample{Wall: time.Since(start), MaxRSS: rss.stop()}
	if ctx.Err() != nil {
		return s, ctx.Err()
	}
	if cmd.ProcessState != nil {
		s.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		if ru, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && s.MaxRSS == 0 {
			// The process ended between two polls. This figure starts from our own size
			// at the fork, so it is the last resort.
			s.MaxRSS = ru.Maxrss << 10
		}
	}
	s.fill(stdout.Bytes())
	switch {
	case timed.Err() != nil:
		s.Outcome, s.Error = OutcomeHung, fmt.Sprintf("killed after %v", stop)
	case err != nil && (s.Outcome == "" || s.Outcome == OutcomeOK):
		s.Outcome = OutcomeError
		s.Error = strings.TrimSpace(stderr.String())
		if _, exited := errors.AsType[*exec.ExitError](err); !exited {
			return s, err
		}
	case s.Outcome == "":
		s.Outcome = OutcomeOK
	}
	return s, nil
}

// fill copies the report, which is the last line that is a JSON object.
func (s *Sample) fill(stdout []byte) {
	var last []byte
	sc := bufio.NewScanner(bytes.NewReader(stdout))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if line := bytes.TrimSpace(sc.Bytes()); bytes.HasPrefix(line, []byte("{")) {
			last = bytes.Clone(line)
		}
	}
	var r Report
	if last == nil || json.Unmarshal(last, &r) != nil {
		return
	}
	s.Bytes, s.Requests, s.Outcome, s.Error, s.Extra = r.Bytes, r.Requests, r.Outcome, r.Error, r.Extra
	if r.Seconds > 0 {
		s.Wall = time.Duration(r.Seconds * float64(time.Second))
	}
	s.MaxRSS = max(s.MaxRSS, r.MaxRSS)
}

// tail keeps the last max bytes written to it.
type tail struct {
	buf []byte
	max int
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - t.max; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.buf) }

// PrintReport prints the report line of a contestant, with its own high-water
// mark of memory.
func PrintReport(w io.Writer, r Report) error {
	r.MaxRSS = max(r.MaxRSS, ownHWM())
	return json.NewEncoder(w).Encode(r)
}
