package snapshotter

import (
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
	// HTTP is where metrics and pulls are told, host:port. "": nowhere. Nothing there
	// changes anything; it names images.
	HTTP string
}

const (
	// graceful bounds how long calls may take that are under way when the daemon ends.
	// Pulls are cancelled at once; what is left are transactions of milliseconds.
	graceful = 10 * time.Second
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
	var web net.Listener
	if at.HTTP != "" {
		if web, err = (&net.ListenConfig{}).Listen(ctx, "tcp", at.HTTP); err != nil {
			return errors.Join(fmt.Errorf("metrics address: %w", err), socket.Close())
		}
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage))
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(s))
	ended := make(chan error, 2)
	running := 1
	go func() { ended <- server.Serve(socket) }()
	pages := &http.Server{Handler: s.pages(metrics), ReadHeaderTimeout: headerTime}
	address := ""
	if web != nil {
		running++
		address = web.Addr().String()
		go func() { ended <- pages.Serve(web) }()
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
	err = errors.Join(err, pages.Close())
	for range running {
		if e := <-ended; e != nil && !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
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
	const most = 107 // bytes of a path in struct sockaddr_un, and a zero
	switch {
	case path == "":
		return nil, errors.New("no socket: name one, for example /run/penstock/snapshotter.sock")
	case len(path) > most:
		return nil, fmt.Errorf("socket %q has a path of %d bytes: at most %d are possible", path, len(path), most)
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
