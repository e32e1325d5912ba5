//go:build unix

package registry

import (
	"os/exec"
	"syscall"
)

// ownGroup gives a program a process group, which is killed as a whole when its
// context ends. Helpers are often scripts that wait for another program.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
