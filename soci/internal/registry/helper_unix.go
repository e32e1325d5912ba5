//go:build unix

package registry

import (
	"os/exec"
	"syscall"
)

// ownGroup gives a program its own process group, and kills the whole group
// when the context ends. Helpers are often scripts that wait for another
// program, which would survive otherwise.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
