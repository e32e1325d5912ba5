package snapshotter

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
)

// Listen are the addresses of a daemon.
type Listen struct {
	Socket string // path of the UNIX socket for containerd
	// HTTP is the address of metrics and pulls, host:port; empty for none. Nothing there
	// changes anything; it names images. An address that is taken does not keep the daemon
	// from serving containerd: it is tried again.
	HTTP string
	// HTTPRetry is how often an address that is taken is tried. Default: 10 s.
	HTTPRetry time.Duration
}

// Validate says what is wrong with the addresses and what to write instead.
func (l Listen) Validate() error {
	if err := checkSocket(l.Socket); err != nil {
		return err
	}
	if l.HTTP == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(l.HTTP)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("metrics address %q: want HOST:PORT, for example 127.0.0.1:9437, or none", l.HTTP)
	}
	return nil
}

// checkSocket says what is wrong with the path of a socket.
func checkSocket(path string) error {
	const most = 107 // bytes of a path in struct sockaddr_un, and a zero
	switch {
	case path == "":
		return errors.New("no socket: name one, for example /run/penstock/snapshotter.sock")
	case len(path) > most:
		return fmt.Errorf("socket %q has a path of %d bytes: at most %d are possible", path, len(path), most)
	}
	return nil
}

const (
	// graceful bounds how long calls may take that are under way when the daemon ends.
	// Pulls are cancelled at once; what is left are transactions of milliseconds.
	graceful = 10 * time.Second
	// httpRetry is short beside the time between two scrapes of Prometheus.
	httpRetry = 10 * time.Second
	// headerTime bounds a slow client of the HTTP endpoint.
	headerTime = 5 * time.Second
	// maxMessage in bytes: what containerd itself accepts.
	maxMessage = 16 << 20
)

// Serve serves s until the context ends. ready, if not nil, is called when containerd
// can connect, with the address of the HTTP endpoint.
func Serve(ctx context.Context, s *Snapshotter, at Listen, metrics prometheus.Gatherer, ready func(http string)) (err error) {
	socket, err := listenSocket(ctx, at.Socket)
	if err != nil {
		return err
	}
	web, address := s.listenWeb(ctx, at)
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage))
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(s))
	ended := make(chan error, 2)
	running := 1
	go func() { ended <- server.Serve(socket) }()
	pages := &http.Server{Handler: s.pages(metrics), ReadHeaderTimeout: headerTime}
	webCtx, endWeb := context.WithCancel(ctx)
	defer endWeb()
	if at.HTTP != "" {
		running++
		go func() { ended <- s.serveWeb(webCtx, at, pages, web) }()
	}
	if ready != nil {
		ready(address)
	}
	select {
	case <-ctx.Done():
	case err = <-ended: // before its time
		running--
	}
	s.Stop() // every Prepare returns
	stop := time.AfterFunc(graceful, server.Stop)
	server.GracefulStop()
	stop.Stop()
	endWeb()
	err = errors.Join(err, pages.Close())
	for range running {
		if e := <-ended; e != nil && !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// listenWeb listens at the HTTP address and returns where that is, or nil when there is none or it
// can not be had now.
func (s *Snapshotter) listenWeb(ctx context.Context, at Listen) (net.Listener, string) {
	if at.HTTP == "" {
		return nil, ""
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.HTTP)
	if err != nil {
		s.opts.Log.Error("no metrics: their address is tried again", "address", at.HTTP, "error", err)
		return nil, ""
	}
	return l, l.Addr().String()
}

// serveWeb serves the pages, at an address that it waits for if it has no listener yet.
func (s *Snapshotter) serveWeb(ctx context.Context, at Listen, pages *http.Server, l net.Listener) error {
	if l == nil {
		tick := time.NewTicker(cmp.Or(at.HTTPRetry, httpRetry))
		defer tick.Stop()
		for l == nil {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
			l, _ = (&net.ListenConfig{}).Listen(ctx, "tcp", at.HTTP)
		}
		s.opts.Log.Info("serving metrics", "http", l.Addr().String())
	}
	return pages.Serve(l)
}

// ServeImages serves the image service of CRI at a socket until the context ends. ready,
// if not nil, is called when kubelet can connect.
func ServeImages(ctx context.Context, s *Images, path string, ready func()) error {
	socket, err := listenSocket(ctx, path)
	if err != nil {
		return fmt.Errorf("image service: %w", err)
	}
	server := s.Server()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(socket) }()
	if ready != nil {
		ready()
	}
	select {
	case <-ctx.Done():
	case err := <-ended:
		return err
	}
	server.Stop() // a pull takes minutes; kubelet asks again
	return <-ended
}

// listenSocket listens on a path, over a socket that a dead process has left.
func listenSocket(ctx context.Context, path string) (net.Listener, error) {
	if err := checkSocket(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case fi.Mode()&fs.ModeSocket == 0:
		return nil, fmt.Errorf("%s exists and is not a socket: name another path", path)
	default:
		if c, err := (&net.Dialer{}).DialContext(ctx, "unix", path); err == nil {
			return nil, errors.Join(fmt.Errorf("another process serves %s: stop it first", path), c.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil { // who may connect may mount
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// pages tells metrics and pulls.
func (s *Snapshotter) pages(metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	if metrics != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	}
	mux.HandleFunc("GET /pulls", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.Pulls()) // a client that is gone
	})
	return mux
}

// Pulls lists the images being pulled, by name.
func (s *Snapshotter) Pulls() []Pull {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []Pull{}
	for _, j := range s.byName {
		out = append(out, Pull{Image: j.name, Bytes: j.fetches, Received: j.received.Load(), Seconds: time.Since(j.start).Seconds()})
	}
	slices.SortFunc(out, func(a, b Pull) int { return strings.Compare(a.Image, b.Image) })
	return out
}
