package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// Versions of the peers. crane has the version of the library in go.mod. SOCI's
// programs are a module without versions inside the repository; they are built at the
// commit nearest to the library's version that module proxies have.
const (
	containerdVersion = "v2.4.2"
	craneVersion      = "v0.22.1"
	sociModule        = "github.com/awslabs/soci-snapshotter"
	sociVersion       = "v0.15.0"
	sociCmdVersion    = "v0.0.0-20260930233240-61147fe7c929"
)

// peers are the paths of the peers' programs, "" for one that this machine lacks.
type peers struct{ crane, containerd, ctr, soci, igzip string }

// findPeers returns the peers, which it builds into dir unless an earlier run did.
// It names each missing peer with the reason.
func findPeers(ctx context.Context, dir string, quick bool) (peers, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return peers{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return peers{}, err
	}
	var p peers
	take := func(into *string, name, version string, build func(out string) error) {
		out := filepath.Join(dir, name+"-"+version)
		if _, err := os.Stat(out); err == nil {
			*into = out
			return
		}
		fmt.Println("building", name, version)
		if err := build(out); err != nil {
			fmt.Printf("without %s: %v\n", name, err)
			return
		}
		*into = out
	}
	install := func(module, version, tags string) func(string) error {
		return func(out string) error { return install(ctx, module, version, tags, out) }
	}
	take(&p.crane, "crane", craneVersion, install("github.com/google/go-containerregistry/cmd/crane", craneVersion, ""))
	if quick || os.Geteuid() != 0 {
		fmt.Println("without containerd and SOCI: they need root, and time to build")
		return p, nil
	}
	const tags = "no_btrfs,no_cri,no_zfs,no_devmapper"
	take(&p.containerd, "containerd", containerdVersion, install("github.com/containerd/containerd/v2/cmd/containerd", containerdVersion, tags))
	take(&p.ctr, "ctr", containerdVersion, install("github.com/containerd/containerd/v2/cmd/ctr", containerdVersion, tags))
	take(&p.soci, "soci-snapshotter-grpc", sociVersion, func(out string) error { return buildSOCI(ctx, out) })
	if p.igzip, err = bench.Debian(ctx, "igzip", "isal"); err != nil {
		fmt.Println("without igzip, and so without SOCI:", err)
		p.igzip = ""
	}
	return p, nil
}

// install builds a program at a version into the file out.
func install(ctx context.Context, program, version, tags, out string) error {
	dir, err := os.MkdirTemp(filepath.Dir(out), "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cmd := exec.CommandContext(ctx, "go", "install", "-tags", tags, program+"@"+version)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOBIN="+dir)
	if log, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go install %s: %w\n%s", program, err, log)
	}
	return os.Rename(filepath.Join(dir, filepath.Base(program)), out)
}

// buildSOCI builds SOCI's daemon: its module with the program, joined to the one with
// the library, both from the module proxy. It links with zlib.
func buildSOCI(ctx context.Context, out string) error {
	library, err := module(ctx, sociModule, sociVersion)
	if err != nil {
		return err
	}
	program, err := module(ctx, sociModule+"/cmd", sociCmdVersion)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(out), "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := copyTree(program, dir); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"mod", "edit", "-replace", sociModule + "=" + library},
		{"build", "-o", out, "./soci-snapshotter-grpc"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS=-mod=mod", "GOWORK=off")
		if log, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w (it needs gcc and the package zlib1g-dev)\n%s", args[0], err, log)
		}
	}
	return nil
}

// module returns the folder of a module, from the proxy or the cache.
func module(ctx context.Context, name, version string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", name+"@"+version)
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	cmd.Dir = os.TempDir() // not in our own module
	text, err := cmd.Output()
	var m struct{ Dir, Error string }
	if jerr := json.Unmarshal(text, &m); jerr != nil || m.Dir == "" {
		return "", fmt.Errorf("%s@%s can not be downloaded: %w %s", name, version, errors.Join(err, jerr), m.Error)
	}
	return m.Dir, nil
}

// copyTree copies a module out of the cache, which is read-only.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o644)
	})
}
