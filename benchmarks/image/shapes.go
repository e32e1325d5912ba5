package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
)

// goroot returns this machine's Go tree, which every machine that can build
// Penstock has.
func goroot() string { return runtime.GOROOT() } //nolint:staticcheck // the tree of the toolchain that built this

// oneLayer makes an image with nearly all of its bytes in one layer.
func oneLayer(ctx context.Context, dir string) (*image, error) {
	root := goroot()
	return pack(ctx, dir, [][]source{
		{{root: filepath.Join(root, "lib"), prefix: "base/lib"}},
		{{root: root, prefix: "one"}, {root: root, prefix: "two"}},
		{{root: filepath.Join(root, "api"), prefix: "app/api"}},
	})
}

// fiftyLayers distributes the Go tree over fifty layers of about the same size.
func fiftyLayers(ctx context.Context, dir string) (*image, error) {
	root := goroot()
	files, err := regular(root)
	if err != nil {
		return nil, err
	}
	const layers = 50
	slices.SortFunc(files, func(a, b file) int { return int(b.size - a.size) })
	dealt := make([][]string, layers)
	for i, f := range files {
		k := i % (2 * layers) // forwards and backwards, so that no layer gets all the large folders
		if k >= layers {
			k = 2*layers - 1 - k
		}
		dealt[k] = append(dealt[k], f.rel)
	}
	var out [][]source
	for i, only := range dealt {
		out = append(out, []source{{root: root, prefix: fmt.Sprintf("part%02d", i), only: only}})
	}
	return pack(ctx, dir, out)
}

// tinyFiles makes one layer of 20,000 files of at most 4 KiB.
func tinyFiles(ctx context.Context, dir string) (*image, error) {
	root := goroot()
	files, err := regular(root)
	if err != nil {
		return nil, err
	}
	const want, cut = 20_000, 4 << 10
	var layer []source
	for n := 0; n < want; {
		s := source{root: root, prefix: fmt.Sprintf("copy%d", len(layer)), cut: cut}
		for _, f := range files[:min(want-n, len(files))] {
			s.only = append(s.only, f.rel)
		}
		n += len(s.only)
		layer = append(layer, s)
	}
	return pack(ctx, dir, [][]source{layer})
}

// smallImage makes an image that only shows that the benchmark runs.
func smallImage(ctx context.Context, dir string) (*image, error) {
	root := goroot()
	return pack(ctx, dir, [][]source{
		{{root: filepath.Join(root, "src", "net"), prefix: "src/net"}},
		{{root: filepath.Join(root, "lib"), prefix: "lib"}},
	})
}

type file struct {
	rel  string
	size int64
}

func regular(root string) (out []file, err error) {
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		out = append(out, file{rel, info.Size()})
		return err
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("no files under %q: set GOROOT", root)
	}
	return out, err
}

// packages are the layers of the realistic image: the contents of images of AI
// frameworks, in layers of very unequal size. Packages that an archive lacks are left out.
var packages = [][]string{
	{"bash", "coreutils", "libc6", "perl-base", "passwd", "util-linux", "dpkg"},
	{"libpython3.11-stdlib", "python3-numpy", "python3-scipy", "python3-pandas", "libopenblas0-pthread"},
	{"libtorch1.13", "libtorch-dev", "python3-torch", "llvm-14-dev", "libllvm14", "chromium", "firefox-esr", "libstd-rust-dev"},
	{"libnode108", "openjdk-17-jre-headless"},
}

// realistic makes an image of Debian packages, as far as the archive has them, and the Go
// tree.
func realistic(ctx context.Context, dir string) (*image, error) {
	var layers [][]source
	for i, names := range packages {
		root := filepath.Join(dir, fmt.Sprintf("root%d", i))
		if err := os.MkdirAll(root, 0o755); err != nil {
			return nil, err
		}
		got := 0
		for _, name := range names {
			if err := unpackDeb(ctx, dir, root, name); err != nil {
				fmt.Println("without the package", name+":", err)
				continue
			}
			got++
		}
		if got == 0 {
			fmt.Printf("without layer %d, none of whose packages can be had: the image is smaller than on other machines (-image gives one)\n", i)
			continue
		}
		layers = append(layers, []source{{root: root}})
	}
	layers = append(layers, []source{{root: goroot(), prefix: "usr/local/go"}})
	img, err := pack(ctx, dir, layers)
	for i := range packages {
		_ = os.RemoveAll(filepath.Join(dir, fmt.Sprintf("root%d", i))) // the whole folder is removed later
	}
	return img, err
}

// unpackDeb downloads a package and leaves its files in root.
func unpackDeb(ctx context.Context, dir, root, name string) error {
	debs, err := os.MkdirTemp(dir, "deb-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(debs)
	get := exec.CommandContext(ctx, "apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", name)
	get.Dir = debs
	if log, err := get.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download: %w: %.200s", err, log)
	}
	found, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("apt-get download left %d packages", len(found))
	}
	if log, err := exec.CommandContext(ctx, "dpkg", "-x", found[0], root).CombinedOutput(); err != nil {
		return fmt.Errorf("dpkg -x: %w: %.200s", err, log)
	}
	return nil
}
