//go:build unix

package s3

import (
	"os/exec"
	"syscall"
)

// endGroup makes the end of a command's context kill every process that the
// command started.
func endGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
