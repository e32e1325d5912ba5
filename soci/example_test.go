package soci_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// Pull an image into a directory. The registry of this example runs in the same
// process.
func ExamplePuller_Pull() {
	registry, reference := exampleRegistry()
	defer registry.Close()
	work, err := os.MkdirTemp("", "example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(work)

	p, err := soci.New(soci.Options{Platform: "linux/amd64"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	res, err := p.Pull(context.Background(), reference, filepath.Join(work, "root"))
	if err != nil {
		fmt.Println(err)
		return
	}
	motd, err := os.ReadFile(filepath.Join(res.Dir, "etc", "motd"))
	fmt.Printf("%d layer of %d file: %s (%v)\n", len(res.Layers), res.Files, motd, err)
	// Output: 1 layer of 1 file: hello from a layer (<nil>)
}

// exampleRegistry serves an image of one layer with one file.
func exampleRegistry() (*testorigin.Origin, string) {
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		panic(err)
	}
	var blob bytes.Buffer
	w := gzip.NewWriter(&blob)
	w.Write(exampleTar("etc/motd", "hello from a layer"))
	w.Close()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob.Bytes())), nil })
	if err != nil {
		panic(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		panic(err)
	}
	cfg, _ := img.ConfigFile()
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		panic(err)
	}
	ref, err := name.ParseReference(o.Host() + "/hello:1")
	if err != nil {
		panic(err)
	}
	if err := remote.Write(ref, img); err != nil {
		panic(err)
	}
	return o, ref.Name()
}
