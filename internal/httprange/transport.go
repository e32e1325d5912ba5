package httprange

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"time"
)

// DialContext is the seam at which connections are made.
type DialContext func(ctx context.Context, network, address string) (net.Conn, error)

const (
	// socketBuffer is net/http's own buffer for heads. Bodies are read past it,
	// straight into the part's buffer; what of them comes along with the head is
	// copied once more, so it is no larger than a head needs.
	socketBuffer = 4 << 10
	// idlePerHost keeps as many connections as the engine may use at once.
	idlePerHost = 256
	// idleTimeout is below the 60 s after which many load balancers drop idle
	// connections: a request should not meet one that is half dead.
	idleTimeout = 45 * time.Second
	dialTimeout = 5 * time.Second
	tlsTimeout  = 10 * time.Second
	keepAlive   = 15 * time.Second
)

// NewTransport returns a transport for bulk GETs: HTTP/1.1 only (several
// connections beat one connection's flow control), no compression, a pool as
// large as the engine's limit. nil dial means a net.Dialer. There is no
// response timeout: the engine watches progress.
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

// ProxyError is the refusal of a proxy to connect to a server. Without it
// net/http reports the bare text of the status, as if the server had said it.
type ProxyError struct {
	Status string // "403 Forbidden"
}

func (e *ProxyError) Error() string { return "it answers CONNECT with " + e.Status }

// proxyAnswer looks at a proxy's answer to CONNECT.
func proxyAnswer(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return &ProxyError{Status: status(resp)}
}

// NewClients returns a client over a [Transport] and one that opens a connection
// for every request, for hedges and for retries after a stall. trust may be nil.
// Neither follows redirects: who asks decides what may go where. Close idle
// connections of the first at the end.
func NewClients(dial DialContext, trust *tls.Config) (client, fresh *http.Client) {
	t, ft := NewTransport(dial), NewTransport(dial)
	ft.DisableKeepAlives = true
	t.TLSClientConfig, ft.TLSClientConfig = trust.Clone(), trust.Clone()
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: NewDirect(t), CheckRedirect: stay}, &http.Client{Transport: NewDirect(ft), CheckRedirect: stay}
}
