package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// pollEvery is the interval of reads of a tree's resident set. A read costs about
// 20 microseconds for each process, which is less than 0.1 % of a core, and the
// polls show the growth of a buffer pool that fills in 100 ms.
const pollEvery = 20 * time.Millisecond

// rssWatch polls the resident set of a process tree until stopped.
type rssWatch struct {
	quit chan struct{}
	done sync.WaitGroup
	peak int64 // written by the poller, read after done
}

func watchRSS(pid int) *rssWatch {
	w := &rssWatch{quit: make(chan struct{})}
	w.done.Go(func() {
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		for {
			w.peak = max(w.peak, treeRSS(pid))
			select {
			case <-w.quit:
				return
			case <-tick.C:
			}
		}
	})
	return w
}

// stop ends the poller and returns the peak in bytes.
func (w *rssWatch) stop() int64 {
	close(w.quit)
	w.done.Wait()
	return w.peak
}

// treeRSS is the resident memory of the process and its descendants now; for a
// process without children it is its high-water mark, which no poll can miss.
func treeRSS(pid int) int64 {
	pids := tree(pid)
	if len(pids) == 1 {
		return statusField(pid, "VmHWM:")
	}
	var sum int64
	for _, p := range pids {
		sum += statusField(p, "VmRSS:")
	}
	return sum
}

func ownHWM() int64 { return statusField(os.Getpid(), "VmHWM:") }

// statusField reads a field of /proc/PID/status in bytes; 0 when there is none.
func statusField(pid int, field string) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, ok := bytes.Cut(b, []byte("\n"+field))
	if !ok {
		return 0
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(string(line)), " kB"), 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}

// tree returns the process and its living descendants.
func tree(pid int) []int {
	pids := []int{pid}
	for i := 0; i < len(pids); i++ {
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		if err != nil {
			continue
		}
		for _, l := range lists {
			b, err := os.ReadFile(l)
			if err != nil {
				continue
			}
			for f := range strings.FieldsSeq(string(b)) {
				if child, err := strconv.Atoi(f); err == nil {
					pids = append(pids, child)
				}
			}
		}
	}
	return pids
}

// clockTick is the unit of the times in /proc/PID/stat: USER_HZ, which Linux
// fixes at 100 for user space on every architecture that Go supports.
const clockTick = 10 * time.Millisecond

// treeCPU is the CPU time of the process, its living descendants and those
// they have waited for.
func treeCPU(pid int) time.Duration {
	var sum time.Duration
	for _, p := range tree(pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			continue
		}
		sum += statCPU(string(b))
	}
	return sum
}

// statCPU adds utime, stime, cutime and cstime of a stat line. The name in
// parentheses may hold spaces and parentheses: fields count from the last ")".
func statCPU(stat string) time.Duration {
	_, rest, ok := strings.Cut(stat[strings.LastIndexByte(stat, ')')+1:], " ")
	f := strings.Fields(rest)
	const utime, last = 11, 14 // fields 14 to 17 of proc(5), counted from field 3
	if !ok || len(f) <= last {
		return 0
	}
	var ticks int64
	for _, v := range f[utime : last+1] {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick
}

// Server is a long-running process that a case talks to: an origin, a DNS
// server, a registry. Its cost is read while it lives.
type Server struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of the process; set before done is closed
	log  *tail
}

// StartServer starts the command in a process group of its own. The caller
// waits for it to be ready, and calls Stop.
func StartServer(argv, env []string) (*Server, error) {
	// Not bound to a context: the server must outlive the cancelled run long
	// enough to be stopped in order.
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s := &Server{cmd: cmd, done: make(chan struct{}), log: &tail{max: 16 << 10}}
	cmd.Stdout, cmd.Stderr = s.log, s.log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.err = cmd.Wait()
		close(s.done)
	}()
	return s, nil
}

// PID is the process id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// CPU is what the server's tree has used so far, in steps of 10 ms.
func (s *Server) CPU() time.Duration { return treeCPU(s.PID()) }

// RSS is the resident memory of the server's tree now, in bytes.
func (s *Server) RSS() int64 { return treeRSS(s.PID()) }

// Exited is closed when the server has ended, wanted or not.
func (s *Server) Exited() <-chan struct{} { return s.done }

// Log returns the end of what the server printed. Call it after Exited.
func (s *Server) Log() string {
	<-s.done
	return s.log.String()
}

// WaitReady polls ready until it returns nil, the server ends or ctx does.
func (s *Server) WaitReady(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("%s ended before it was ready: %w\n%s", s.cmd.Path, s.err, s.log)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", s.cmd.Path, err)
		case <-tick.C:
		}
	}
}

// stopGrace is the time within which a server must end after SIGTERM.
const stopGrace = 3 * time.Second

// Stop asks the server to end, kills its group if it does not, and returns when
// it has ended.
func (s *Server) Stop() {
	pgid := -s.PID()
	_ = syscall.Kill(pgid, syscall.SIGTERM) // an error means that the group has ended
	select {
	case <-s.done:
	case <-time.After(stopGrace):
	}
	_ = syscall.Kill(pgid, syscall.SIGKILL) // for the rest of the group
	<-s.done
}
