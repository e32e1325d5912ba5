package httprange

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"time"
)

// DialContext makes a connection, as net.Dialer.DialContext does.
type DialContext func(ctx context.Context, network, address string) (net.Conn, error)

const (
	// socketBuffer is the size of the buffer for headers, as in net/http. Bodies
	// are read straight into the part's buffer, except for the bytes that arrive
	// with the header; these are copied, so the buffer is small.
	socketBuffer = 4 << 10
	// idlePerHost is the most connections that the engine uses at once.
	idlePerHost = 256
	// idleTimeout is below the 60 s after which many load balancers drop idle
	// connections without notice.
	idleTimeout = 45 * time.Second
	dialTimeout = 5 * time.Second
	tlsTimeout  = 10 * time.Second
	keepAlive   = 15 * time.Second
)

// NewTransport returns a transport for bulk GETs: HTTP/1.1 only (several
// connections are faster than one connection's flow control), no compression, and
// a pool as large as the engine's limit. A nil dial means a net.Dialer. There is
// no response timeout, because the engine watches the progress.
func NewTransport(dial DialContext) *http.Transport {
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext
	}
	proto := new(http.Protocols)
	proto.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dial,
		OnProxyConnectResponse: proxyAnswer,
		Protocols:              proto,
		DisableCompression:     true,
		MaxIdleConns:           0,
		MaxIdleConnsPerHost:    idlePerHost,
		IdleConnTimeout:        idleTimeout,
		TLSHandshakeTimeout:    tlsTimeout,
		ReadBufferSize:         socketBuffer,
		WriteBufferSize:        socketBuffer,
	}
}

// ProxyError is a proxy's refusal to connect to a server. net/http would report the
// bare text of the status, which looks like an answer of the server.
type ProxyError struct {
	Status string // "403 Forbidden"
}

func (e *ProxyError) Error() string { return "it answers CONNECT with " + e.Status }

// proxyAnswer checks a proxy's answer to CONNECT.
func proxyAnswer(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return &ProxyError{Status: status(resp)}
}

// NewClients returns a client over a [Transport], and one that opens a connection
// for every request, for hedges and for retries after a stall. trust may be nil.
// The clients don't follow redirects, because their callers decide which
// credentials may go to which host. The caller closes the idle connections of the
// first client.
func NewClients(dial DialContext, trust *tls.Config) (client, fresh *http.Client) {
	t, ft := NewTransport(dial), NewTransport(dial)
	ft.DisableKeepAlives = true
	t.TLSClientConfig, ft.TLSClientConfig = trust.Clone(), trust.Clone()
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: NewDirect(t), CheckRedirect: stay}, &http.Client{Transport: NewDirect(ft), CheckRedirect: stay}
}
