package bench

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// The usage of a parent includes the children that it has waited for; a living
// child is in the tree.
func TestUsage(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	t.Parallel()
	cmd := exec.Command("sh", "-c", "read wait")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pids := Tree(os.Getpid())
	if pids[0] != os.Getpid() || len(pids) < 2 || HWM(cmd.Process.Pid) == 0 {
		t.Errorf("the child %d is not in %v", cmd.Process.Pid, pids)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // read fails at the end of its input
	if UsageOf(os.Getpid()).Written < 0 || UsageOf(cmd.Process.Pid) != (Usage{}) {
		t.Error("usage of a process that has ended")
	}
	out, err := exec.Command("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done").Output()
	if err != nil || strings.TrimSpace(string(out)) != "done" {
		t.Fatal(err)
	}
	if UsageOf(os.Getpid()).CPU == 0 {
		t.Error("no CPU time")
	}
}
