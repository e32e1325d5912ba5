package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/s3stream"
)

// mainEnv makes the test binary run as penstock-cast.
const mainEnv = "PENSTOCK_CAST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// process is a penstock-cast in a process of its own.
type process struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
	addr           string // of a leader
	done           chan struct{}
}

// startProcess runs penstock-cast; a leader's address is known when it returns.
func startProcess(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.CommandContext(t.Context(), exe, args...), done: make(chan struct{})}
	p.Env = append(append(os.Environ(), mainEnv+"=1", "PENSTOCK_TOKEN=secret-of-the-test"), env...)
	p.Stdout = &p.stdout
	pipe, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(pipe)
		var once sync.Once
		for lines.Scan() {
			if _, addr, ok := strings.Cut(lines.Text(), "listening on "); ok {
				p.addr = addr
				once.Do(func() { close(ready) })
				continue
			}
			fmt.Fprintln(&p.stderr, lines.Text())
		}
		once.Do(func() { close(ready) })
		_ = p.Wait() // the test reads ProcessState
		close(p.done)
	}()
	if args[0] == "leader" {
		<-ready // the leader listens or has ended
	}
	return p
}

// wait returns the exit code, or -1 after a signal.
func (p *process) wait() int {
	<-p.done
	return p.ProcessState.ExitCode()
}

func startOrigin(t *testing.T, o testorigin.Options) (*testorigin.Origin, []string) {
	t.Helper()
	origin, err := testorigin.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { origin.Close() })
	return origin, []string{
		"AWS_ENDPOINT_URL=" + origin.URL(), "AWS_REGION=" + testorigin.Region,
		"AWS_ACCESS_KEY_ID=" + testorigin.AccessKey, "AWS_SECRET_ACCESS_KEY=" + testorigin.SecretKey,
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
	}
}

// goFile returns a large file that every Go tree has.
func goFile(t *testing.T) (path string, data []byte) {
	t.Helper()
	path = filepath.Join(runtime.GOROOT(), "src/cmd/compile/internal/ssa/rewriteAMD64.go")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("needs the source of the Go tree: %v", err)
	}
	return path, data
}

// TestProcesses runs a leader and eight workers, each in a process of its own.
// The origin sends each byte once, and every worker gets every file.
func TestProcesses(t *testing.T) {
	path, big := goFile(t)
	o, env := startOrigin(t, testorigin.Options{})
	if err := o.PutFile("b", "m/big.go", path); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := o.Put("b", fmt.Sprintf("m/d/%d", i), big[:i*1000]); err != nil {
			t.Fatal(err)
		}
	}
	leader := startProcess(t, env, "leader", "--json", "--workers", "8", "--listen", "127.0.0.1:0", "--memory", "64MiB", "--block", "64KiB", "s3://b/m/")
	var workers []*process
	var dirs []string
	for i := range 8 {
		dirs = append(dirs, t.TempDir())
		// The address comes from the environment, without --leader.
		workers = append(workers, startProcess(t, []string{"PENSTOCK_LEADER=" + leader.addr}, "worker", "-o", dirs[i], "--name", fmt.Sprint("w", i), "--memory", "16MiB"))
	}
	for i, w := range workers {
		if code := w.wait(); code != 0 {
			t.Errorf("worker %d exits %d: %s", i, code, &w.stderr)
		}
		if got, err := os.ReadFile(filepath.Join(dirs[i], "big.go")); err != nil || !bytes.Equal(got, big) {
			t.Errorf("worker %d: big.go is wrong: %v", i, err)
		}
		if got, err := os.ReadFile(filepath.Join(dirs[i], "d", "4")); err != nil || !bytes.Equal(got, big[:4000]) {
			t.Errorf("worker %d: d/4 is wrong: %v", i, err)
		}
	}
	if code := leader.wait(); code != 0 {
		t.Fatalf("leader exits %d: %s", code, &leader.stderr)
	}
	var rep s3stream.Report
	if err := json.Unmarshal(leader.stdout.Bytes(), &rep); err != nil {
		t.Fatalf("%v in %s", err, &leader.stdout)
	}
	if len(rep.Workers) != 8 || rep.Bytes != int64(len(big))+10_000 || !rep.Workers[7].HashOK {
		t.Errorf("report %+v", rep)
	}
	if got := o.TotalBytes("b/"); got > rep.Bytes*101/100 {
		t.Errorf("the origin sent %d bytes of %d", got, rep.Bytes)
	}
}

// gate holds the origin's answers from the n-th GetObject onwards.
type gate struct {
	n       int32
	seen    atomic.Int32
	reached chan struct{} // closed when the n-th arrives
	open    chan struct{} // close it to release the answers
}

func newGate(n int32) *gate {
	return &gate{n: n, reached: make(chan struct{}), open: make(chan struct{})}
}

func (g *gate) tap(e testorigin.Event) {
	if e.Op != "GetObject" || e.Done {
		return
	}
	switch n := g.seen.Add(1); {
	case n == g.n:
		close(g.reached)
		fallthrough
	case n > g.n:
		<-g.open
	}
}

// manyObjects fills a bucket so that a job needs many requests one after the
// other, because only a few objects fit into its memory.
func manyObjects(t *testing.T, o *testorigin.Origin) (data []byte, n int) {
	t.Helper()
	_, data = goFile(t)
	data = data[:1<<20]
	const objects = 40
	for i := range objects {
		if err := o.Put("b", fmt.Sprintf("m/%02d", i), data); err != nil {
			t.Fatal(err)
		}
	}
	return data, objects
}

// TestKilledWorker kills a worker in the middle of the job by SIGKILL; the
// others must finish.
func TestKilledWorker(t *testing.T) {
	g := newGate(20)
	o, env := startOrigin(t, testorigin.Options{Tap: g.tap})
	data, n := manyObjects(t, o)
	leader := startProcess(t, env, "leader", "--workers", "4", "--listen", "127.0.0.1:0", "--memory", "4MiB", "--block", "64KiB", "--topology", "chain", "s3://b/m/")
	var workers []*process
	var dirs []string
	for i := range 4 {
		dirs = append(dirs, t.TempDir())
		workers = append(workers, startProcess(t, nil, "worker", "--leader", leader.addr, "-o", dirs[i], "--name", fmt.Sprint("w", i+1), "--rank", fmt.Sprint(i+1), "--memory", "4MiB"))
	}
	<-g.reached
	if err := workers[1].Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	close(g.open)
	for i, w := range workers {
		code := w.wait()
		if i == 1 {
			continue
		}
		if code != 0 {
			t.Errorf("worker %d exits %d: %s", i+1, code, &w.stderr)
		}
		for k := range n {
			if got, err := os.ReadFile(filepath.Join(dirs[i], fmt.Sprintf("%02d", k))); err != nil || !bytes.Equal(got, data) {
				t.Errorf("worker %d: object %d is wrong: %v", i+1, k, err)
				break
			}
		}
	}
	if code := leader.wait(); code != 1 || !strings.Contains(leader.stderr.String(), "1 of 4 failed, the first is w2") {
		t.Errorf("leader exits %d: %s", code, &leader.stderr)
	}
}

// TestInterrupt wants an interrupted leader to end all members of the job. The
// last line of each says so, and no half-written file remains. Warnings about
// connections that were being made may precede that line.
func TestInterrupt(t *testing.T) {
	g := newGate(10)
	o, env := startOrigin(t, testorigin.Options{Tap: g.tap})
	data, _ := manyObjects(t, o)
	defer close(g.open)
	leader := startProcess(t, env, "leader", "-q", "--workers", "2", "--listen", "127.0.0.1:0", "--memory", "4MiB", "--block", "64KiB", "s3://b/m/")
	var workers []*process
	var dirs []string
	for i := range 2 {
		dirs = append(dirs, t.TempDir())
		workers = append(workers, startProcess(t, nil, "worker", "-q", "--leader", leader.addr, "-o", dirs[i]))
	}
	<-g.reached
	if err := leader.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := leader.wait(); code != 1 || !strings.HasSuffix(leader.stderr.String(), "penstock-cast leader: interrupted\n") {
		t.Errorf("leader exits %d: %q", code, leader.stderr.String())
	}
	for i, w := range workers {
		if code := w.wait(); code != 1 || !strings.HasSuffix(w.stderr.String(), "ended the job: interrupted\n") {
			t.Errorf("worker %d exits %d: %q", i, code, w.stderr.String())
		}
		files, err := os.ReadDir(dirs[i])
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if got, err := os.ReadFile(filepath.Join(dirs[i], f.Name())); err != nil || !bytes.Equal(got, data) {
				t.Errorf("worker %d left %s half-written", i, f.Name())
			}
		}
	}
}

// TestInterruptedGet does the same for a single node.
func TestInterruptedGet(t *testing.T) {
	g := newGate(1)
	o, env := startOrigin(t, testorigin.Options{Tap: g.tap})
	manyObjects(t, o)
	defer close(g.open)
	dir := filepath.Join(t.TempDir(), "new")
	p := startProcess(t, env, "get", "-q", "-o", dir, "s3://b/m/00")
	<-g.reached
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(); code != 1 || p.stderr.String() != "penstock-cast get: interrupted\n" {
		t.Errorf("exits %d: %q", code, p.stderr.String())
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("a directory is left: %v", err)
	}
}

func TestGetToStandardOutput(t *testing.T) {
	o, env := startOrigin(t, testorigin.Options{})
	_, data := goFile(t)
	if err := o.Put("b", "k", data); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, env, "get", "-o", "-", "s3://b/k")
	if code := p.wait(); code != 0 || !bytes.Equal(p.stdout.Bytes(), data) || !strings.Contains(p.stderr.String(), "verified") {
		t.Errorf("exits %d: %s", code, &p.stderr)
	}
}

// TestUsage wants exit code 2 and one line that names the mistake.
func TestUsage(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, env, want string
	}{
		{"", "", "no command"},
		{"fetch", "", `"fetch"`},
		{"get", "", "nothing to send"},
		{"get b/k", "", `"b/k" is not an S3 URI`},
		{"get s3:///k", "", "no bucket"},
		{"get -x s3://b/k", "", "-x"},
		{"get --memory lots s3://b/k", "", `"lots"`},
		{"get --memory 1KiB s3://b/k", "", "memory of 1024 bytes"},
		{"get --memory 9999999999999TiB s3://b/k", "", "9999999999999TiB"},
		{"get -o d -f x s3://b/k", "", "more than one output: --output and --file exclude each other"},
		{"get --json -o - s3://b/k", "", "both want standard output"},
		{"get --fips --transfer-acceleration s3://b/k", "", "no FIPS endpoints"},
		{"get --interfaces no-such0 s3://b/k", "", `"no-such0"`},
		{"leader", "", "nothing to send"},
		{"leader --workers -1 s3://b/k", "", "-1 workers"},
		{"leader --topology ring s3://b/k", "", `"ring"`},
		{"leader --block 1 s3://b/k", "", "block size 1"},
		{"leader --block lots s3://b/k", "", `"lots"`},
		{"leader --stall 1ms s3://b/k", "", "stall timeout 1ms"},
		{"leader --wait -1s s3://b/k", "", "wait -1s"},
		{"leader --listen nowhere s3://b/k", "", `"nowhere"`},
		{"leader s3://b/k", "RANK=2 WORLD_SIZE=4 MASTER_ADDR=h MASTER_PORT=29500", "process 2"},
		{"leader s3://b/k", "PENSTOCK_TOKEN_FILE=" + empty, "is empty"},
		{"leader s3://b/k", "PENSTOCK_TOKEN_FILE=/does/not/exist", "PENSTOCK_TOKEN_FILE"},
		{"leader s3://b/k", "", "no token"},
		{"leader --listen 10.0.0.1:7117 s3://b/k", "", "no token"},
		{"leader s3://b/k", "PENSTOCK_TOKEN=short", "token has 5 bytes"},
		{"worker --leader node-0 -o d", "", "no token"},
		{"leader --digest md5 s3://b/k", "", `"md5"`},
		{"worker -o d", "", "no leader"},
		{"worker --leader h:1", "", "no output"},
		{"worker --leader h:x -o d", "", `"x" is not a port`},
		{"worker --leader h -o d --rank -2", "", "rank -2"},
		{"worker --leader h -o d extra", "", `"extra"`},
		{"worker --leader h -o d --advertise a:b:c", "", `"a:b:c"`},
		{"worker -o d", "JOB_COMPLETION_INDEX=3", "PENSTOCK_LEADER"},
		{"worker -o d", "LWS_LEADER_ADDRESS=h LWS_GROUP_SIZE=4 LWS_WORKER_INDEX=0", "process 0"},
	} {
		env := map[string]string{}
		for _, kv := range strings.Fields(c.env) {
			k, v, _ := strings.Cut(kv, "=")
			env[k] = v
		}
		var stderr bytes.Buffer
		if !strings.Contains(c.want, "token") {
			env["PENSTOCK_TOKEN"] = cmp.Or(env["PENSTOCK_TOKEN"], "secret-of-the-test")
		}
		code := run(t.Context(), strings.Fields(c.args), env, io.Discard, &stderr)
		if s := stderr.String(); code != 2 || !strings.Contains(s, c.want) || strings.Count(s, "\n") != 1 {
			t.Errorf("%s: exits %d with %q, want 2 and one line with %q", c.args, code, s, c.want)
		}
	}
}

func TestFailures(t *testing.T) {
	o, env := startOrigin(t, testorigin.Options{})
	if err := o.Put("b", "k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := o.Put("b", "dir/x", nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, env, want string }{
		{"get -o OUT s3://b/missing", "", "s3://b/missing"},
		{"get -o OUT s3://absent/k", "", "no such bucket"},
		{"get -o OUT s3://b/dir", "", "write s3://b/dir/"},
		{"get -o OUT s3://b/k", "AWS_SECRET_ACCESS_KEY=wrong", "AWS_SECRET_ACCESS_KEY"},
		{"get --outage -1s -o OUT s3://b/k", "AWS_ENDPOINT_URL=http://127.0.0.1:9", "refuses connections"},
		{"get -f /proc/x s3://b/k", "", "/proc"},
		{"leader --listen 127.0.0.1:0 --wait 100ms --workers 2 s3://b/k", "", "0 of 2 workers joined"},
		{"leader --listen 203.0.113.1:1 s3://b/k", "", "203.0.113.1:1"},
		{"worker --leader 127.0.0.1:9 --wait 100ms -o OUT", "", "refused"},
	} {
		out := filepath.Join(t.TempDir(), "out")
		p := startProcess(t, append(env[:len(env):len(env)], c.env), strings.Fields(strings.ReplaceAll(c.args, "OUT", out))...)
		if code, s := p.wait(), p.stderr.String(); code != 1 || !strings.Contains(s, c.want) || strings.Count(s, "\n") != 1 {
			t.Errorf("%s: exits %d with %q, want 1 and one line with %q", c.args, code, s, c.want)
		}
		if _, err := os.Stat(out); !os.IsNotExist(err) {
			t.Errorf("%s: left its output", c.args)
		}
	}
}

// TestJSON wants a document on standard output after success and after failure.
func TestJSON(t *testing.T) {
	o, env := startOrigin(t, testorigin.Options{})
	if err := o.Put("b", "k", []byte("12345")); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"k": "", "absent": "no such object"} {
		p := startProcess(t, env, "get", "--json", "-o", t.TempDir(), "s3://b/"+key)
		code := p.wait()
		var out struct {
			Bytes int64
			Error string
		}
		if err := json.Unmarshal(p.stdout.Bytes(), &out); err != nil {
			t.Fatalf("%s: %v in %s", key, err, &p.stdout)
		}
		if want == "" && (code != 0 || out.Bytes != 5) || !strings.Contains(out.Error, want) {
			t.Errorf("%s: exits %d: %+v", key, code, out)
		}
	}
}
