package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/soci/internal/containerdlog"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

const (
	// pollEvery is the interval at which the daemon is asked for its progress.
	pollEvery = 250 * time.Millisecond
	// pollTime bounds one such request.
	pollTime = 2 * time.Second
	// dialTime bounds the wait for containerd's first answer.
	dialTime = 10 * time.Second
)

// prefetched is the result for one image.
type prefetched struct {
	Reference       string  `json:"reference"`
	Manifest        string  `json:"manifest,omitempty"` // or index
	Layers          int     `json:"layers"`
	CompressedBytes int64   `json:"compressed_bytes"`
	Wall            float64 `json:"wall_s"`
	Error           string  `json:"error,omitempty"`
}

// prefetch pulls the images one after the other, so that the rate bounds all of
// them together.
func (c *prefetchCommand) prefetch(ctx context.Context, s cli.Streams) error {
	cl, err := client.New(c.containerd, client.WithDefaultNamespace(c.namespace), client.WithTimeout(dialTime))
	if err != nil {
		return fmt.Errorf("containerd at %s: %w", c.containerd, err)
	}
	defer cl.Close()
	failed := false
	results := []prefetched{}
	for _, ref := range c.references {
		m := c.Meter(s.Err)
		res := c.image(ctx, cl, ref, m)
		m.End()
		results = append(results, res)
		switch {
		case res.Error != "":
			failed = true
			fmt.Fprintf(s.Err, "penstock-pull prefetch: %s: %s\n", ref, printable.Line(res.Error, cli.MaxLine))
		case !c.json:
			fmt.Fprintf(s.Out, "%s: %d layers, %s compressed, in %.2f s\n", ref, res.Layers, cli.Megabytes(res.CompressedBytes), res.Wall)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if c.json {
		if err := cli.WriteJSON(s.Out, results); err != nil {
			return fmt.Errorf("the images are in place, but the result could not be written: %w", err)
		}
	}
	if failed {
		return cli.ErrReported
	}
	return nil
}

// image pulls one image through containerd.
func (c *prefetchCommand) image(ctx context.Context, cl *client.Client, ref registry.Reference, m *cli.Meter) prefetched {
	start := time.Now()
	res := prefetched{Reference: ref.String()}
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{command: c, ref: ref, meter: newImageProgress(m)}
	var polls sync.WaitGroup
	if m.On() && c.status != "" {
		polls.Go(func() { w.poll(ctx) })
	}
	img, err := cl.Pull(ctx, res.Reference, c.pullOptions(ctx, ref, w)...)
	cancel()
	polls.Wait()
	res.Wall = time.Since(start).Seconds()
	w.mu.Lock()
	res.Layers, res.CompressedBytes = len(w.sizes), w.total
	w.mu.Unlock()
	if err != nil {
		res.Error = cli.Line(err)
		return res
	}
	res.Manifest = img.Target().Digest.String()
	return res
}

// pullOptions make containerd unpack into our snapshotter, which fetches the
// layers itself.
func (c *prefetchCommand) pullOptions(ctx context.Context, ref registry.Reference, w *watch) []client.RemoteOpt {
	labels := map[string]string{}
	if c.rate > 0 {
		labels[snapshotter.RateLabel] = strconv.FormatInt(c.rate, 10)
	}
	opts := []client.RemoteOpt{
		client.WithResolver(c.resolver(ctx, ref)),
		client.WithPullUnpack,
		client.WithPullSnapshotter(c.snapshotter, snapshots.WithLabels(labels)),
		client.WithImageHandlerWrapper(func(h images.Handler) images.Handler {
			return w.wrap(snapshotters.AppendInfoHandlerWrapper(ref.String())(h))
		}),
	}
	if c.platform != "" {
		opts = append(opts, client.WithPlatform(c.platform))
	}
	if c.namespace == kubernetes {
		// Kubernetes' plugin lists an image by this label.
		opts = append(opts, client.WithPullLabel("io.cri-containerd.image", "managed"))
	}
	return opts
}

// resolver finds registries as the snapshotter does, by hosts.toml and docker's
// logins.
func (c *prefetchCommand) resolver(ctx context.Context, ref registry.Reference) remotes.Resolver {
	opts := dockerconfig.HostOptions{Credentials: func(host string) (string, string, error) {
		cred, err := registry.DockerCredentials(ctx, host, ref.Repository)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("no credentials, asking as anonymous", "host", host, "err", err)
			return "", "", nil
		}
		if cred.IdentityToken != "" {
			return "", cred.IdentityToken, err
		}
		return cred.Username, cred.Password, err
	}}
	if c.hostsDir != "" {
		opts.HostDir = dockerconfig.HostDirFromRoot(c.hostsDir)
	}
	if loopback, err := docker.MatchLocalhost(ref.Host); c.plainHTTP || err == nil && loopback {
		opts.DefaultScheme = "http"
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: dockerconfig.ConfigureHosts(containerdlog.With(ctx, c.log), opts)})
}

// watch learns the layers of an image from its manifest, and reports the
// daemon's progress to the meter.
type watch struct {
	command *prefetchCommand
	ref     registry.Reference
	meter   *imageProgress

	mu       sync.Mutex // guards the fields below
	manifest string
	sizes    []int64
	total    int64
	seen     int64 // bytes reported to the meter
}

// wrap returns a handler that reads the layers' sizes from the manifest.
func (w *watch) wrap(next images.Handler) images.Handler {
	return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		children, err := next.Handle(ctx, desc)
		if err != nil || !images.IsManifestType(desc.MediaType) {
			return children, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.manifest != "" {
			return children, nil // the progress shows one platform
		}
		w.manifest = desc.Digest.String()
		for _, c := range children {
			if images.IsLayerType(c.MediaType) {
				w.sizes, w.total = append(w.sizes, c.Size), w.total+c.Size
			}
		}
		w.meter.Start(w.ref.String(), w.sizes)
		return children, nil
	})
}

// poll asks the daemon for its progress until the context ends. If the daemon
// does not answer, the pull continues without progress on the meter.
func (w *watch) poll(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		pulls, err := w.ask(ctx)
		if err != nil {
			continue
		}
		w.mu.Lock()
		for _, p := range pulls {
			if w.manifest == "" || !strings.HasSuffix(p.Image, "@"+w.manifest) {
				continue
			}
			// Layers that were present before count as received.
			now := w.total - p.Bytes + p.Received
			if n := now - w.seen; n > 0 {
				w.meter.Advance(-1, n, 0) // the daemon does not report layers
				w.seen = now
			}
		}
		w.mu.Unlock()
	}
}

func (w *watch) ask(ctx context.Context) ([]snapshotter.Pull, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.command.status, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req) //nolint:forbidigo // the daemon on this machine: no proxy, no tuning
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	var pulls []snapshotter.Pull
	const most = 1 << 20 // bytes; an image takes 200
	return pulls, json.NewDecoder(io.LimitReader(resp.Body, most)).Decode(&pulls)
}
