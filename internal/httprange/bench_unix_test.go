//go:build unix

package httprange_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/httprange"
)

// serveVar makes the test binary act as the origin, so that the origin's CPU time
// is not counted.
const serveVar = "PENSTOCK_HTTPRANGE_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serveVar) == "" {
		os.Exit(m.Run())
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	f, err := os.CreateTemp("", "httprange-")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err == nil {
		_, err = f.Write(make([]byte, 16<<20))
	}
	if err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString(ln.Addr().String() + "\n")
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		w.Header().Set("Content-Length", strconv.Itoa(n))
		_, _ = io.Copy(w, io.NewSectionReader(f, 0, int64(n)))
	})}
	go func() { // the process ends with its parent
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = srv.Close()
	}()
	_ = srv.Serve(ln)
}

// hidden is a connection that hides its socket, so that it gets no receiver.
type hidden struct{ net.Conn }

// BenchmarkGet compares the CPU time that a GET costs its reader: through net/http,
// through a Transport without a receiver, and with one. Eight requests run
// concurrently, as in the engine; each has its own buffer.
func BenchmarkGet(b *testing.B) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveVar+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		b.Fatal(err)
	}
	addr := strings.TrimSpace(string(line[:n]))
	hide := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return hidden{c}, err
	}
	for _, size := range []int{64 << 10, 1 << 20, 8 << 20} {
		for name, rt := range map[string]http.RoundTripper{
			"nethttp":       httprange.NewTransport(nil),
			"direct-hidden": httprange.NewDirect(httprange.NewTransport(hide)),
			"direct":        httprange.NewDirect(httprange.NewTransport(nil)),
		} {
			b.Run(name+"/"+strconv.Itoa(size>>10)+"KiB", func(b *testing.B) {
				c := &http.Client{Transport: rt}
				defer c.CloseIdleConnections()
				url := "http://" + addr + "/" + strconv.Itoa(size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.SetParallelism(4) // eight with two processors
				before := cpu(b)
				b.RunParallel(func(pb *testing.PB) {
					buf := make([]byte, size)
					for pb.Next() {
						resp, err := c.Get(url)
						if err == nil {
							_, err = io.ReadFull(resp.Body, buf)
							resp.Body.Close()
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
				b.ReportMetric((cpu(b)-before).Seconds()/float64(b.N)/float64(size)*1e9, "CPU-s/GB")
			})
		}
	}
}

// cpu is the processor time of this process.
func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
