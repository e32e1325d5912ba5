package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/coredns/coredns/pb"
	"github.com/quic-go/quic-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// An asker asks one question over a stream of its own, and returns the reply.
// It may be called by several goroutines at once.
type asker func(ctx context.Context, query []byte) ([]byte, error)

// dialStreams returns the asker of a protocol that gives each question a stream
// of one connection, or nil for another protocol, and a function that closes
// the connection.
func dialStreams(ctx context.Context, proto, addr string) (ask asker, done func(), err error) {
	switch proto {
	case "https":
		ask, done = dialHTTPS(addr)
	case "quic":
		return dialQUIC(ctx, addr)
	case "grpc":
		return dialGRPC(addr)
	default:
		done = func() {}
	}
	return ask, done, nil
}

// askOneByOne asks the questions of take, each after the answer to the last.
func askOneByOne(ctx context.Context, ask asker, take func(int64) [][]byte, answered *atomic.Int64) error {
	for {
		one := take(1)
		if len(one) == 0 {
			return nil
		}
		reply, err := ask(ctx, one[0])
		if err != nil {
			return err
		}
		if answers(reply, one[0]) {
			answered.Add(1)
		}
	}
}

// dialHTTPS asks by POST, as RFC 8484 has it.
func dialHTTPS(addr string) (asker, func()) {
	const messageType = "application/dns-message"
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS(), ForceAttemptHTTP2: true}}
	return func(ctx context.Context, query []byte) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+addr+"/dns-query", bytes.NewReader(query))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", messageType)
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		reply, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		if err == nil && (resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), messageType)) {
			err = fmt.Errorf("https: %s with %s", resp.Status, resp.Header.Get("Content-Type"))
		}
		return reply, err
	}, client.CloseIdleConnections
}

// dialQUIC asks as RFC 9250 has it: the identifier is 0, and the end of the
// client's side of the stream is the end of the question.
func dialQUIC(ctx context.Context, addr string) (asker, func(), error) {
	conf := clientTLS()
	conf.NextProtos = []string{"doq"}
	conn, err := quic.DialAddr(ctx, addr, conf, nil)
	if err != nil {
		return nil, nil, err
	}
	ask := func(ctx context.Context, query []byte) ([]byte, error) {
		s, err := conn.OpenStreamSync(ctx)
		if err != nil {
			return nil, err
		}
		out := binary.BigEndian.AppendUint16(nil, uint16(len(query)))
		out = append(append(out, 0, 0), query[2:]...)
		if _, err := s.Write(out); err != nil {
			return nil, err
		}
		if err := s.Close(); err != nil {
			return nil, err
		}
		in, err := io.ReadAll(io.LimitReader(s, 2+1<<16))
		if err == nil && (len(in) < 2 || len(in)-2 != int(binary.BigEndian.Uint16(in))) {
			err = fmt.Errorf("quic: a reply of %d bytes", len(in))
		}
		if err != nil {
			return nil, err
		}
		return in[2:], nil
	}
	return ask, func() { _ = conn.CloseWithError(0, "") }, nil
}

// dialGRPC asks by CoreDNS's own service.
func dialGRPC(addr string) (asker, func(), error) {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(clientTLS())))
	if err != nil {
		return nil, nil, err
	}
	client := pb.NewDnsServiceClient(conn)
	return func(ctx context.Context, query []byte) ([]byte, error) {
		reply, err := client.Query(ctx, &pb.DnsPacket{Msg: query})
		return reply.GetMsg(), err
	}, func() { _ = conn.Close() }, nil
}
