package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// Build builds a main package of the module into the file out.
func Build(ctx context.Context, out, pkg string) error {
	return build(ctx, "", out, pkg)
}

// BuildIn builds the main package of a folder that is a module of its own.
// The folder is given from the top of the repository, where benchmarks run.
func BuildIn(ctx context.Context, dir, out string) error {
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("%s is not here: run from the top of the repository, as make bench does", dir)
	}
	return build(ctx, dir, out, ".")
}

func build(ctx context.Context, dir, out, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, pkg)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if log, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build of %s: %w\n%s", filepath.Join(dir, pkg), err, log)
	}
	return nil
}

// GoInstall installs a program at a version (path@version) into dir, through
// Go's module proxy, and returns its path.
func GoInstall(ctx context.Context, dir, program string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "install", program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOBIN="+dir)
	if log, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s: %w\n%s", program, err, log)
	}
	name, _, _ := strings.Cut(path.Base(program), "@")
	return filepath.Join(dir, name), nil
}

// sbin are where servers live and where a user's PATH does not look.
var sbin = []string{"/usr/sbin", "/usr/local/sbin", "/sbin"}

// Debian returns the path of a program. When it is missing and we are root, its
// package is installed with apt, and a service that comes with it is stopped: a
// benchmark starts its own. Without root the error says how to install it.
func Debian(ctx context.Context, program, pkg string) (string, error) {
	if p, err := find(program); err == nil {
		return p, nil
	}
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("%s is missing: install the package %s as root", program, pkg)
	}
	apt := exec.CommandContext(ctx, "apt-get", "install", "-y", "--no-install-recommends", pkg)
	apt.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if log, err := apt.CombinedOutput(); err != nil {
		t := &tail{max: 300}
		_, _ = t.Write(log) // never fails
		return "", fmt.Errorf("apt-get install %s: %w: %s", pkg, err, t)
	}
	// There may be no service, or no service manager: then nothing runs.
	_ = exec.CommandContext(ctx, "service", pkg, "stop").Run()
	return find(program)
}

func find(program string) (string, error) {
	p, err := exec.LookPath(program)
	if err == nil {
		return p, nil
	}
	for _, dir := range sbin {
		if p, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return p, nil
		}
	}
	return "", err
}
