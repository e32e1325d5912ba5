package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/dnsload"
)

const (
	// streamConns is the number of connections of a run, streamBurst the number
	// of questions that are sent on one before the answers are read, as a
	// node-local cache does.
	streamConns = 8
	streamBurst = 32
	// streamShare divides the number of questions of a run over UDP, because
	// these cost several times as much.
	streamShare = 4
)

// maxOfTCP bounds the cost of our pipelined TCP as a part of CoreDNS's.
const maxOfTCP = 1.0 / 3

// tcp measures answers from the cache over TCP, to clients that have many
// questions under way and to those that wait for each answer.
func (b *run) tcp(ctx context.Context, res *bench.Result) error {
	ours, stock, err := b.both(ctx)
	if err != nil {
		return err
	}
	behind, theirsBehind, err := b.bothBehind(ctx)
	if err != nil {
		return err
	}
	var turns []turn
	var targets []target
	for _, x := range []struct {
		name         string
		ours, theirs *server
		burst        int
		share        int // of the questions of a run over UDP
		most         float64
	}{
		{"pipelined", ours, stock, streamBurst, 2, maxOfTCP},
		{"one at a time", ours, stock, 1, 8, 1},
		{"pipelined", behind, theirsBehind, streamBurst, 8, 1},
		{"one at a time", behind, theirsBehind, 1, 8, 1},
	} {
		for _, s := range []*server{x.ours, x.theirs} {
			role := b.o.questions("stream", s, max(1, b.o.queries/x.share), "-burst", strconv.Itoa(x.burst))
			turns = append(turns, turn{name: s.name + ", " + x.name, on: s, ours: s == x.ours, cpus: b.load, role: role})
		}
		chain := strings.TrimPrefix(x.ours.name, oursName)
		targets = append(targets, target{"CPU for a cached answer over TCP, " + x.name + chain + ", against CoreDNS with its cache", x.ours.name + ", " + x.name, x.theirs.name + ", " + x.name, perAnswer, x.most, ""})
	}
	for _, s := range []*server{ours, stock, behind, theirsBehind} {
		if err := warmStream(ctx, "tcp", s, b.mix); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	_, err = measure(ctx, res, cpuCase("cached answers over TCP", b.exe, turns, b.o), targets)
	return err
}

// The protocols in addition to UDP and plain TCP. Over TLS and HTTPS the fast
// path answers; over QUIC and gRPC the cache is a plugin in CoreDNS's chain.
var streamProtocols = []string{"tls", "https", "quic", "grpc"}

// streamCases are the ways in which they are asked, and the bounds of our CPU
// as a part of CoreDNS's. burst is the number of questions that go out on a
// connection before the answers are read; HTTPS, QUIC and gRPC have streams.
var streamCases = []struct {
	name, proto string
	burst       int
	share       int // of the questions of a run over UDP
	most        float64
}{
	{"tls, pipelined", "tls", streamBurst, streamShare, 0.35},
	{"tls, one at a time", "tls", 1, 2 * streamShare, 0.6},
	{"https", "https", streamBurst, streamShare, 0.5},
	{"quic", "quic", streamBurst, streamShare, 1},
	{"grpc", "grpc", streamBurst, streamShare, 1},
}

// transports measures answers from the cache over TLS, HTTPS, QUIC and gRPC.
func (b *run) transports(ctx context.Context, res *bench.Result) error {
	if err := certificate(b.dir); err != nil {
		return err
	}
	var turns []turn
	for _, x := range []struct {
		name, bin string
	}{{oursName, b.ours}, {stockName, b.stock}} {
		servers, err := b.streams(ctx, x.bin)
		if err != nil {
			return err
		}
		for _, c := range streamCases {
			s := servers[c.proto]
			role := b.o.questions("stream", s, max(1, b.o.queries/c.share), "-proto", c.proto, "-burst", strconv.Itoa(c.burst))
			t := turn{name: x.name + ", " + c.name, on: s, ours: x.bin == b.ours, cpus: b.load, role: role}
			if err := warmStream(ctx, c.proto, s, b.mix); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			turns = append(turns, t)
		}
	}
	var targets []target
	for _, c := range streamCases {
		targets = append(targets, target{"CPU for a cached answer over " + c.name + " against CoreDNS with its cache", oursName + ", " + c.name, stockName + ", " + c.name, perAnswer, c.most, ""})
	}
	_, err := measure(ctx, res, cpuCase("cached answers over streams", b.exe, turns, b.o), targets)
	return err
}

// streams starts one CoreDNS that answers over each of streamProtocols, and
// over UDP for the check that it has started.
func (b *run) streams(ctx context.Context, bin string) (map[string]*server, error) {
	ports := make([]int, 2+len(streamProtocols)) // of UDP, of the metrics, and of the others
	for i := range ports {
		var err error
		if ports[i], err = freePort(ctx); err != nil {
			return nil, err
		}
	}
	body := fmt.Sprintf("\tbind 127.0.0.1\n\terrors\n%s}\n", cacheBody(b.up.addr, ports[1], ""))
	secret := fmt.Sprintf("\ttls %s %s\n", filepath.Join(b.dir, "cert.pem"), filepath.Join(b.dir, "key.pem"))
	var text strings.Builder
	fmt.Fprintf(&text, ".:%d {\n%s", ports[0], body)
	for i, proto := range streamProtocols {
		fmt.Fprintf(&text, "%s://.:%d {\n%s%s", proto, ports[2+i], secret, body)
	}
	conf := filepath.Join(b.dir, "Corefile."+strconv.Itoa(ports[0]))
	if err := os.WriteFile(conf, []byte(text.String()), 0o600); err != nil {
		return nil, err
	}
	s, err := b.add(start(ctx, b.one, "udp", []string{bin, "-conf", conf}, ports[0], b.mix.Queries[0]))
	if err != nil {
		return nil, err
	}
	all := map[string]*server{}
	for i, proto := range streamProtocols {
		all[proto] = &server{name: proto, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[2+i])), proc: s.proc}
	}
	return all, nil
}

// certificate writes a certificate for this run into dir.
func certificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "benchmark"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// clientTLS accepts any certificate, because each run makes a new one.
func clientTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a server of ours on loopback, started a moment ago
}

func warmStream(ctx context.Context, proto string, s *server, mix *dnsload.Mix) error {
	packets, err := pack(mix.Distinct())
	if err != nil {
		return err
	}
	_, err = stream(ctx, proto, s.addr, packets, streamBurst, int64(len(packets)))
	return err
}

// runStream is the role "stream": the mix over connections, with several
// questions under way on each.
func runStream(ctx context.Context, args []string) error {
	fs, asked := askedFlags("stream")
	proto := fs.String("proto", "tcp", "tcp, tls, https, quic or grpc")
	burst := fs.Int("burst", streamBurst, "questions that go out on a connection before the answers are read")
	if err := fs.Parse(args); err != nil {
		return err
	}
	packets, err := pack(newMix(asked.services, asked.queries).Queries)
	if err != nil {
		return err
	}
	begin := time.Now()
	n, err := stream(ctx, *proto, asked.addr, packets, int64(*burst), int64(asked.queries))
	if err != nil {
		return err
	}
	return bench.PrintReport(os.Stdout, bench.Report{Bytes: n, Requests: n, Seconds: time.Since(begin).Seconds(), Outcome: bench.OutcomeOK})
}

func pack(queries []dnsload.Query) ([][]byte, error) {
	packets := make([][]byte, len(queries))
	for i, q := range queries {
		m := new(dns.Msg)
		m.SetQuestion(q.Name, q.Type)
		b, err := m.Pack()
		if err != nil {
			return nil, fmt.Errorf("%v: %w", q, err)
		}
		packets[i] = b
	}
	return packets, nil
}

// stream asks count questions and returns the number of right answers.
func stream(ctx context.Context, proto, addr string, packets [][]byte, burst, count int64) (int64, error) {
	var next, answered atomic.Int64
	// take returns up to n packets, and none when all have been asked.
	take := func(n int64) [][]byte {
		from := next.Add(n) - n
		var out [][]byte
		for i := from; i < min(from+n, count); i++ {
			out = append(out, packets[i%int64(len(packets))])
		}
		return out
	}
	group, ctx := errgroup.WithContext(ctx)
	ask, done, err := dialStreams(ctx, proto, addr)
	if err != nil {
		return 0, err
	}
	defer done()
	workers := streamConns
	if ask != nil {
		workers = streamConns * streamBurst / 4 // streams of one connection
	}
	for range workers {
		group.Go(func() error {
			if ask != nil {
				return askOneByOne(ctx, ask, take, &answered)
			}
			return askStream(ctx, proto, addr, burst, take, &answered)
		})
	}
	err = group.Wait()
	return answered.Load(), err
}

func askStream(ctx context.Context, proto, addr string, size int64, take func(int64) [][]byte, answered *atomic.Int64) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	if proto == "tls" {
		c = tls.Client(c, clientTLS())
	}
	defer c.Close()
	in, out, buf := bufio.NewReader(c), []byte(nil), make([]byte, 1<<16)
	for {
		burst := take(size)
		if len(burst) == 0 {
			return nil
		}
		out = out[:0]
		for i, p := range burst {
			out = binary.BigEndian.AppendUint16(out, uint16(len(p)))
			out = binary.BigEndian.AppendUint16(out, uint16(i)) // the ID
			out = append(out, p[2:]...)
		}
		_ = c.SetDeadline(time.Now().Add(dnsload.DefaultTimeout * 5))
		if _, err := c.Write(out); err != nil {
			return err
		}
		for range burst {
			if _, err := io.ReadFull(in, buf[:2]); err != nil {
				return err
			}
			reply := buf[:binary.BigEndian.Uint16(buf)]
			if _, err := io.ReadFull(in, reply); err != nil {
				return err
			}
			if i := int(binary.BigEndian.Uint16(reply)); i < len(burst) && answers(reply, burst[i]) {
				answered.Add(1)
			}
		}
	}
}

// answers reports whether reply answers the query with NOERROR or NXDOMAIN.
func answers(reply, query []byte) bool {
	return len(reply) >= len(query) && reply[2]&0x80 != 0 && (reply[3]&15 == dns.RcodeSuccess || reply[3]&15 == dns.RcodeNameError) && bytes.Equal(reply[12:len(query)], query[12:])
}
