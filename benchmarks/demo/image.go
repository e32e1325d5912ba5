package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// runImage packs the input as an image, pulls it, compares every file, and does
// the same work the plain way to compare.
func runImage(ctx context.Context, env *environment) (result, error) {
	var r result
	dir, err := env.scratch("image")
	if err != nil {
		return r, err
	}
	j := env.ui.job("pack as OCI layers", env.bytes)
	img, err := pack(ctx, env, dir, j)
	if err != nil {
		return r, fmt.Errorf("pack the image: %w", err)
	}
	j.end("%d layers, %s compressed", len(img.layers), size(img.compressed()))
	if err := bench.PushImage(env.origin, "demo/go", "latest", img.layers); err != nil {
		return r, err
	}

	target := filepath.Join(dir, "pulled")
	j = env.ui.job("pull with soci", img.compressed())
	begin, used := time.Now(), cpu()
	res, err := pull(ctx, env, target, j)
	if err != nil {
		return r, err
	}
	ours, oursCPU := time.Since(begin), cpu()-used
	j.end("%d requests, digests and DiffIDs verified", res.Network.Requests)

	j = env.ui.job("compare with the source", env.bytes)
	n, err := compareTrees(ctx, env.source, target, j.add)
	if err != nil {
		return r, fmt.Errorf("the pulled tree is not the packed one: %w", err)
	}
	j.end("%d entries equal", n)

	plain := filepath.Join(dir, "plain")
	j = env.ui.job("same by GET + gunzip + untar", img.compressed())
	begin, used = time.Now(), cpu()
	if err := plainPull(ctx, env.origin, img, plain, j); err != nil {
		return r, fmt.Errorf("plain pull: %w", err)
	}
	theirs, theirsCPU := time.Since(begin), cpu()-used
	j.end("")

	r.figure("image_bytes", res.FileBytes, "image", fmt.Sprintf("%d files, %s, %d layers (%s)", res.Files, size(res.FileBytes), len(img.layers), size(img.compressed())))
	r.figure("compared_entries", n, "compared", fmt.Sprintf("%d entries equal to the source", n))
	r.figure("soci_seconds", ours.Seconds(), "soci", fmt.Sprintf("%.2f s, %s, %.2f CPU-s", ours.Seconds(), rate(res.FileBytes, ours), oursCPU.Seconds()))
	r.figure("plain_seconds", theirs.Seconds(), "GET + gunzip + untar", fmt.Sprintf("%.2f s, %s, %.2f CPU-s", theirs.Seconds(), rate(res.FileBytes, theirs), theirsCPU.Seconds()))
	r.figure("speedup", theirs.Seconds()/ours.Seconds(), "ratio", fmt.Sprintf("%.2fx the speed, %.2fx the CPU", theirs.Seconds()/ours.Seconds(), oursCPU.Seconds()/max(theirsCPU.Seconds(), 1e-9)))
	r.Figures["soci_cpu_seconds"], r.Figures["plain_cpu_seconds"] = oursCPU.Seconds(), theirsCPU.Seconds()
	return r, nil
}

func pull(ctx context.Context, env *environment, target string, j *job) (*soci.Result, error) {
	p, err := soci.New(soci.Options{Progress: pullProgress{j}})
	if err != nil {
		return nil, err
	}
	res, err := p.Pull(ctx, env.origin.Host()+"/demo/go:latest", target)
	return res, errors.Join(err, p.Close())
}

// pullProgress feeds a job with the compressed bytes.
type pullProgress struct{ j *job }

func (pullProgress) Start(string, []int64)                { /* the total is known already */ }
func (p pullProgress) Advance(_ int, compressed, _ int64) { p.j.add(compressed) }
func (pullProgress) Done(int)                             { /* the bytes say it */ }

// plainPull works as a careful shell script would: one GET for each layer, with the
// standard library's gunzip and tar, one layer after the other.
func plainPull(ctx context.Context, o *testorigin.Origin, img *image, target string, j *job) error {
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	token, err := anonymousToken(ctx, client, o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	for _, l := range img.layers {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.URL()+"/v2/demo/go/blobs/"+string(l.Digest), nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		err = plainUnpack(resp, target, j)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return err
		}
	}
	return nil
}

func plainUnpack(resp *http.Response, target string, j *job) error {
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("blob: %s", resp.Status)
	}
	zr, err := gzip.NewReader(&counted{resp.Body, j})
	if err != nil {
		return err
	}
	tr := tar.NewReader(zr)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := plainEntry(tr, h, filepath.Join(target, filepath.FromSlash(h.Name))); err != nil {
			return err
		}
	}
}

// plainEntry extracts one entry. It trusts the archive, which this program packed.
func plainEntry(tr *tar.Reader, h *tar.Header, path string) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(path, 0o755)
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, path)
	case tar.TypeReg:
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, h.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.CopyN(f, tr, h.Size)
		return errors.Join(err, f.Close(), os.Chtimes(path, h.ModTime, h.ModTime))
	}
	return fmt.Errorf("%s: entry type %q is not in a Go tree", h.Name, h.Typeflag)
}

// counted is a reader that reports the bytes read through it.
type counted struct {
	r io.Reader
	j *job
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.j.add(int64(n))
	return n, err
}

// anonymousToken asks the registry's token service for a pull token.
func anonymousToken(ctx context.Context, client *http.Client, o *testorigin.Origin) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.URL()+"/token?service=origin&scope=repository:demo/go:pull", nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var t struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&t); err != nil {
		return "", fmt.Errorf("token: %s: %w", resp.Status, err)
	}
	return t.Token, nil
}
