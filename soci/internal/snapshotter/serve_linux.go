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
	// HTTP is the address of metrics and pulls, host:port, or empty. The
	// endpoint is read-only and names images. If the address is in use, the
	// daemon serves containerd without it and tries again.
	HTTP string
	// HTTPRetry is the time between attempts at an address in use. Default: 10
	// s.
	HTTPRetry time.Duration
}

// Validate returns an error that names an invalid address and its valid form,
// or nil.
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

// checkSocket checks the path of a socket.
func checkSocket(path string) error {
	const most = 107 // bytes of a path in struct sockaddr_un, without the final zero
	switch {
	case path == "":
		return errors.New("no socket: name one, for example /run/penstock/snapshotter.sock")
	case len(path) > most:
		return fmt.Errorf("socket %q has a path of %d bytes: at most %d are possible", path, len(path), most)
	}
	return nil
}

const (
	// stopTimeout bounds the running calls when the daemon ends. Pulls are
	// cancelled at once; the other calls are transactions of milliseconds.
	stopTimeout = 10 * time.Second
	// httpRetry is short compared with the time between two scrapes of
	// Prometheus.
	httpRetry = 10 * time.Second
	// headerTime bounds the time that a client of the HTTP endpoint may take to
	// send its headers.
	headerTime = 5 * time.Second
	// maxMessage is the largest message, in bytes, that containerd accepts.
	maxMessage = 16 << 20
)

// Serve serves s until the context ends. If ready is not nil, Serve calls it
// with the address of the HTTP endpoint once containerd can connect.
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
	case err = <-ended: // a server failed
		running--
	}
	s.Stop() // makes every Prepare return
	stop := time.AfterFunc(stopTimeout, server.Stop)
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

// listenWeb listens at the HTTP address. It returns the listener and its
// address, or a nil listener if no address is configured or it is in use.
func (s *Snapshotter) listenWeb(ctx context.Context, at Listen) (net.Listener, string) {
	if at.HTTP == "" {
		return nil, ""
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.HTTP)
	if err != nil {
		s.opts.Log.Error("cannot serve metrics yet, will retry", "address", at.HTTP, "err", err)
		return nil, ""
	}
	return l, l.Addr().String()
}

// serveWeb serves the pages. Without a listener it first waits until the
// address is free.
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

// ServeImages serves the image service of CRI at a socket until the context
// ends. If ready is not nil, ServeImages calls it once kubelet can connect.
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
	server.Stop() // does not wait for pulls, which take minutes; kubelet retries them
	return <-ended
}

// listenSocket listens on a path. It replaces the socket of a dead process.
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
	if err := os.Chmod(path, 0o600); err != nil { // clients can mount
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// pages returns the handler of the HTTP endpoint, with metrics and pulls.
func (s *Snapshotter) pages(metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	if metrics != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	}
	mux.HandleFunc("GET /pulls", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.Pulls()) // fails only if the client is gone
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
