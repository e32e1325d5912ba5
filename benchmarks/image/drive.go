package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/testorigin"
)

// The contestants.
const (
	pullName  = "penstock-pull"
	snapName  = "containerd + penstock"
	sociName  = "containerd + SOCI, igzip"
	ctrdIgzip = "containerd, igzip"
	ctrdGo    = "containerd, Go gunzip"
	craneName = "crane + tar"
	plainName = "GET + gunzip + untar"
)

// stopAfter ends a client that hangs. On a slow disk the slowest client takes a
// minute.
const stopAfter = 3 * time.Minute

func drive(ctx context.Context, o options) (err error) {
	machine := bench.ThisMachine()
	done, err := readKept(o.keep, machine.Commit)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.data, "penstock-image-")
	if err != nil {
		return fmt.Errorf("%w: give a folder in memory with -data", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p, err := findPrograms(ctx, o, dir)
	if err != nil {
		return err
	}
	for _, name := range o.cases {
		if done.has(name) {
			fmt.Println(name + ": kept from an earlier run")
			continue
		}
		f, err := one(ctx, o, p, name, dir)
		if err != nil {
			return err
		}
		done.Cases = append(done.Cases, f)
		if err := done.write(o.keep); err != nil {
			return err
		}
	}
	res := report(done.Cases, machine)
	res.Print(os.Stdout)
	if o.out == "" {
		fmt.Println("\nquick run: nothing is written, and the figures mean nothing")
		return nil
	}
	at, err := res.Write(o.out)
	if err != nil {
		return err
	}
	fmt.Printf("\nwritten: %s/{table.md,result.json,plot.svg}; %d of %d targets missed\n", at, len(res.Failed()), len(res.Verdicts))
	if missing := slices.DeleteFunc(slices.Clone(caseNames), done.has); len(missing) > 0 {
		fmt.Println("not measured:", missing)
	}
	return nil
}

// programs are our programs, freshly built, and the peers.
type programs struct {
	self, pull, snapshotter string
	peers
}

func findPrograms(ctx context.Context, o options, dir string) (p programs, err error) {
	if p.self, err = os.Executable(); err != nil {
		return p, err
	}
	p.pull, p.snapshotter = filepath.Join(dir, "penstock-pull"), filepath.Join(dir, "penstock-snapshotter")
	for out, pkg := range map[string]string{p.pull: "./soci/cmd/penstock-pull", p.snapshotter: "./soci/cmd/penstock-snapshotter"} {
		if err := bench.Build(ctx, out, pkg); err != nil {
			return p, err
		}
	}
	p.peers, err = findPeers(ctx, o.peers, o.quick)
	return p, err
}

// one measures one case.
func one(ctx context.Context, o options, p programs, name, dir string) (f finished, err error) {
	fmt.Println(name + ": making the image")
	blobs, err := os.MkdirTemp(dir, "image-")
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(blobs)) }()
	img, err := prepare(ctx, name, o, blobs)
	if err != nil {
		return f, err
	}
	f = finished{Case: name, Title: title(name, o), Image: facts{
		Layers: len(img.layers), Compressed: img.compressed(), Tar: img.volume.tar, Full: img.full(), Entries: img.volume.entries,
	}}
	where := dir
	if name == caseDisk {
		where = o.disk
	}
	root, err := newRoots(where, name != caseDisk)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, root.remove()) }()
	origin := testorigin.Options{}
	if name == caseBusy {
		origin.ConnRate = o.connRate
	}
	rounds := o.rounds
	if name != caseMemory {
		rounds = min(rounds, someRounds)
	}
	f.Measured, err = measure(ctx, o.deadline, name, rounds, p, origin, root, img)
	return f, err
}

// roots is a folder that is recreated for each run.
type roots struct {
	dir     string
	mounted bool // a file system of its own, in memory
}

// newRoots makes the folder; as root, and in memory, with a file system of its own, so
// that the bytes in use are the run's.
func newRoots(where string, memory bool) (*roots, error) {
	dir, err := os.MkdirTemp(where, "roots-")
	return &roots{dir: dir, mounted: memory && os.Geteuid() == 0}, err
}

func (r *roots) renew() error {
	if !r.mounted {
		if err := os.RemoveAll(r.dir); err != nil {
			return err
		}
		if err := os.Mkdir(r.dir, 0o755); err != nil {
			return err
		}
		return flush(r.dir) // writing back the last run's pages is not this run's work
	}
	unmount(r.dir)
	return mountMemory(r.dir)
}

func (r *roots) remove() error {
	if r.mounted {
		unmount(r.dir)
	}
	return os.RemoveAll(r.dir)
}

// contestants are the clients that can run here.
func contestants(p programs, host string, dir string) []bench.Contestant {
	ref, tree := host+"/"+repo+":"+tag, filepath.Join(dir, "tree")
	account := func(argv ...string) []string { return append([]string{p.self, "account", "-dir", dir, "--"}, argv...) }
	out := []bench.Contestant{{Name: pullName, Ours: true, Argv: account(p.pull, "--root", tree, "--hosts-dir", "none", "--progress=none", ref)}}
	daemon := func(snapshotter, program string) []string {
		return []string{
			p.self, "containerd", "-containerd", p.containerd, "-ctr", p.ctr, "-ref", ref, "-dir", dir,
			"-snapshotter", snapshotter, "-program", program, "-igzip", p.igzip,
		}
	}
	if p.containerd != "" && p.ctr != "" {
		out = append(out, bench.Contestant{Name: snapName, Ours: true, Argv: daemon(snapPenstock, p.snapshotter)})
		if p.soci != "" && p.igzip != "" {
			out = append(out, bench.Contestant{Name: sociName, Argv: daemon(snapSOCI, p.soci)})
		}
		if p.igzip != "" {
			out = append(out, bench.Contestant{Name: ctrdIgzip, Argv: daemon(snapOverlay, "")})
		}
		out = append(out, bench.Contestant{
			Name: ctrdGo, Argv: daemon(snapOverlay, ""),
			Env: []string{"CONTAINERD_DISABLE_IGZIP=1", "CONTAINERD_DISABLE_PIGZ=1"},
		})
	}
	if p.crane != "" {
		out = append(out, bench.Contestant{Name: craneName, Argv: account(
			"sh", "-c", `mkdir "$3" && "$1" export --insecure "$2" - | tar -xf - -C "$3"`, "sh", p.crane, ref, tree)})
	}
	out = append(out, bench.Contestant{Name: plainName, Argv: account(p.self, "plain", "-registry", host, "-dir", tree)})
	for i := range out {
		out[i].Stop = stopAfter
	}
	return out
}

// measure runs one case against a registry of its own.
func measure(ctx context.Context, deadline time.Time, name string, rounds int, p programs, opts testorigin.Options, root *roots, img *image) (m bench.Measured, err error) {
	origin, err := testorigin.Start(opts)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, origin.Close()) }()
	if err := bench.PushImage(origin, repo, tag, img.layers); err != nil {
		return m, err
	}
	clients := contestants(p, origin.Host(), root.dir)
	if name == caseDisk { // the two slowest clients are not limited by the disk
		clients = slices.DeleteFunc(clients, func(c bench.Contestant) bool { return c.Name == craneName || c.Name == plainName })
	}
	return bench.Measure(ctx, bench.Case{
		Name: name, Contestants: clients, Rounds: rounds, Deadline: deadline,
		Before: func(context.Context, bench.Contestant) error {
			origin.Reset()
			return root.renew()
		},
		After: func(_ context.Context, c bench.Contestant, s *bench.Sample) error {
			s.CPU = time.Duration(s.Extra[extraCPU] * float64(time.Second))
			s.MaxRSS = int64(s.Extra[extraRSS])
			if s.Outcome == bench.OutcomeOK {
				s.Bytes = img.volume.tar
				if slices.Contains([]string{pullName, craneName, plainName}, c.Name) { // the other clients keep layers in separate folders
					if d := img.tree.compare(filepath.Join(root.dir, "tree")); d != "" {
						s.Outcome, s.Error = bench.OutcomeCorrupt, d
					}
				}
			}
			for _, c := range origin.Counters() {
				s.Requests += c.Requests
			}
			s.BytesSent = origin.TotalBytes(repo + "@")
			return nil
		},
		Line: func(s bench.Sample) string {
			return fmt.Sprintf("%6.2f s  %6.2f CPU-s  %4d MiB  peak %5.0f MiB", s.Wall.Seconds(), s.CPU.Seconds(), s.MaxRSS>>20, s.Extra[extraPeak]/(1<<20))
		},
	}, os.Stdout)
}
