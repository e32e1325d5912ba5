package s3

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/internal/nic"
	"github.com/penstock/penstock/internal/ranges"
)

// userAgent names the program in the service's access logs.
const userAgent = "penstock"

// Client talks to one S3 service; see [New].
type Client struct {
	opts     Options
	style    string // the profile's addressing_style
	retry    ranges.RetryPolicy
	log      *slog.Logger
	made     time.Time
	endpoint *url.URL // nil for the endpoints of AWS
	sseC     sseC
	header   http.Header // sent with every GET of a source; constant after New
	budget   *budget.Budget

	sdk         *awss3.Client
	sdkOptions  awss3.Options // options of sdk: endpoint, styles, region
	credentials *credentialSource
	signer      *v4.Signer
	client      *http.Client  // keeps connections
	fresh       *http.Client  // a new connection for each request
	abortWait   time.Duration // abortCancelled, except in tests
	// conditional is set when the store has accepted a conditional request, and
	// unconditional when it cannot compare its own validators; see confirm.
	conditional, unconditional atomic.Bool
	skew                       atomic.Int64 // server's clock minus this machine's, in nanoseconds

	retryMu  sync.Mutex // guards retryLog; leaf
	retryLog ranges.RetryLog

	mu      sync.Mutex // guards the maps; leaf
	regions map[string]string
	targets map[targetID]*target
}

// New makes a client. It reads configuration files and variables, but makes no
// request, because credentials are fetched when first used.
func New(ctx context.Context, o Options) (*Client, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.SSECustomerKeyFile != "" {
		key, err := readCustomerKey(o.SSECustomerKeyFile)
		if err != nil {
			return nil, err
		}
		o.SSECustomerKey = key
	}
	files, profile := sharedFiles(o)
	stamps := stampsOf(files)
	style, err := addressingStyle(files, profile)
	if err != nil {
		return nil, err
	}
	cfg, err := loadConfig(ctx, o)
	if err != nil {
		return nil, err
	}
	c := &Client{
		opts:      o,
		style:     style,
		retry:     o.Retry.WithDefaults(),
		log:       o.Log,
		made:      time.Now(),
		sseC:      newSSEC(o.SSECustomerKey),
		budget:    o.Budget,
		abortWait: abortCancelled,
		signer:    v4.NewSigner(func(so *v4.SignerOptions) { so.DisableURIPathEscaping = true }),
		regions:   map[string]string{},
		targets:   map[targetID]*target{},
	}
	c.header = c.objectHeader()
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.budget == nil {
		c.budget = budget.Process()
	}
	if err := c.makeClients(cfg); err != nil {
		return nil, err
	}
	if !o.Anonymous {
		var load func(context.Context) (keyChain, error)
		if o.Credentials == nil {
			load = func(ctx context.Context) (keyChain, error) {
				stamps := stampsOf(files)
				cfg, err := loadConfig(ctx, o)
				return chainOf(cfg, o, files, stamps), err
			}
		}
		c.credentials = newCredentialSource(chainOf(cfg, o, files, stamps), load, c.log)
		cfg.Credentials = c.credentials
	}
	c.sdk = awss3.NewFromConfig(cfg, c.sdkOption)
	c.sdkOptions = c.sdk.Options()
	if err := c.checkEndpoint(); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// loadConfig reads the environment and the shared configuration.
func loadConfig(ctx context.Context, o Options) (aws.Config, error) {
	load := []func(*config.LoadOptions) error{
		config.WithDefaultRegion(DefaultRegion),
		config.WithLogger(logging.Nop{}), // the SDK would write to standard error
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(o.Profile))
	}
	if o.Credentials != nil {
		load = append(load, config.WithCredentialsProvider(o.Credentials))
	}
	if o.Anonymous {
		load = append(load, config.WithCredentialsProvider(aws.AnonymousCredentials{}))
	}
	if o.DualStack {
		load = append(load, config.WithUseDualStackEndpoint(aws.DualStackEndpointStateEnabled))
	}
	if o.FIPS {
		load = append(load, config.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled))
	}
	cfg, err := loadTrust(ctx, o.CABundle, load)
	var missing config.SharedConfigProfileNotExistError
	switch {
	case errors.As(err, &missing):
		return cfg, fmt.Errorf("s3: no profile %q in the shared configuration: run aws configure list-profiles to see them", missing.Profile)
	case err != nil:
		files, profile := sharedFiles(o)
		if hint := halfPair(files, profile); hint != "" {
			return cfg, errors.New("s3: " + hint)
		}
		return cfg, fmt.Errorf("s3: configuration: %s", line(err.Error()))
	}
	return cfg, nil
}

// loadTrust reads the configuration, with the authorities of a CA bundle (of
// the options, AWS_CA_BUNDLE or the profile) in addition to the system's. The
// SDK by default adds the bundle to an empty pool, and so would trust only the
// bundle.
func loadTrust(ctx context.Context, bundle string, load []func(*config.LoadOptions) error) (aws.Config, error) {
	load = slices.Clip(load)
	read := func(load ...func(*config.LoadOptions) error) (aws.Config, error) {
		if bundle == "" {
			return config.LoadDefaultConfig(ctx, load...)
		}
		pem, err := os.ReadFile(bundle)
		if err != nil {
			return aws.Config{}, fmt.Errorf("CA bundle: %w", err)
		}
		return config.LoadDefaultConfig(ctx, append(load, config.WithCustomCABundle(bytes.NewReader(pem)))...)
	}
	cfg, err := read(load...)
	if b, ok := cfg.HTTPClient.(*awshttp.BuildableClient); err != nil || !ok || b.GetTransport().TLSClientConfig == nil || b.GetTransport().TLSClientConfig.RootCAs == nil {
		return cfg, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return cfg, fmt.Errorf("CA bundle: the system's authorities: %w", err)
	}
	client := awshttp.NewBuildableClient().WithTransportOptions(func(tr *http.Transport) {
		if tr.TLSClientConfig == nil {
			tr.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		tr.TLSClientConfig.RootCAs = pool
	})
	return read(append(load, config.WithHTTPClient(client))...)
}

// makeClients makes the two HTTP clients, which trust the authorities of the
// configuration.
func (c *Client) makeClients(cfg aws.Config) error {
	dial := c.opts.DialContext
	if dial == nil {
		d, err := nic.New(nic.Options{Locals: c.opts.Interfaces})
		if err != nil {
			return fmt.Errorf("s3: %w", err)
		}
		dial = d.DialContext
	}
	var trust *tls.Config
	if b, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok && b.GetTransport().TLSClientConfig != nil && b.GetTransport().TLSClientConfig.RootCAs != nil {
		trust = b.GetTransport().TLSClientConfig.Clone()
		trust.NextProtos = nil // the transport sets its own
	}
	c.client, c.fresh = httprange.NewClients(dial, trust)
	c.client.Transport = &follower{c: c, base: c.client.Transport}
	c.fresh.Transport = &follower{c: c, base: c.fresh.Transport}
	return nil
}

// sdkOption configures the SDK's client.
func (c *Client) sdkOption(so *awss3.Options) {
	so.Retryer = aws.NopRetryer{}
	so.HTTPClient = &witnessClient{c}
	so.ContinueHeaderThresholdBytes = -1 // waiting for 100 Continue would cost each part a round trip
	so.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	so.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	so.DisableLogOutputChecksumValidationSkipped = true
	so.UseAccelerate = c.opts.Accelerate
	so.UseARNRegion = true
	so.APIOptions = append(so.APIOptions, hideAcceptEncoding)
	if c.opts.Endpoint != "" {
		so.BaseEndpoint = aws.String(c.opts.Endpoint)
	}
	host := ""
	if so.BaseEndpoint != nil {
		if u, err := url.Parse(*so.BaseEndpoint); err == nil {
			host = u.Hostname()
		}
	}
	so.UsePathStyle = pathStyle(c.opts, c.style, host)
	add := func(name, value string) {
		if value != "" {
			so.APIOptions = append(so.APIOptions, smithyhttp.SetHeaderValue(name, value))
		}
	}
	if c.opts.RequesterPays {
		add("X-Amz-Request-Payer", "requester")
	}
	add("X-Amz-Expected-Bucket-Owner", c.opts.ExpectedBucketOwner)
}

// checkEndpoint validates the endpoint, whether it comes from the options or
// the environment.
func (c *Client) checkEndpoint() error {
	if c.sdkOptions.BaseEndpoint == nil || *c.sdkOptions.BaseEndpoint == "" {
		return nil
	}
	u, err := parseEndpoint(*c.sdkOptions.BaseEndpoint)
	if err != nil {
		return fmt.Errorf("%w (from the options, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile)", err)
	}
	if len(c.opts.SSECustomerKey) > 0 && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return fmt.Errorf("s3: a customer key would cross the network unencrypted to %s: use an https endpoint", u.Host)
	}
	c.endpoint = u
	return nil
}

// Region returns the region of requests to buckets whose own region is not
// known.
func (c *Client) Region() string { return c.sdkOptions.Region }

// Close closes idle connections and ends the renewal of credentials. The client
// must not be in use.
func (c *Client) Close() error {
	if c.credentials != nil {
		c.credentials.close()
	}
	c.client.CloseIdleConnections()
	c.fresh.CloseIdleConnections()
	return nil
}

// now returns the server's time, as far as this client knows it.
func (c *Client) now() time.Time { return time.Now().Add(time.Duration(c.skew.Load())) }

// learn stores the clock or the region that a failed answer reports, and
// reports whether to repeat the request with them. used is the region that the
// request was signed for.
func (c *Client) learn(e *Error, used string) bool {
	if now := time.Now(); wrongClock(e, now.Add(time.Duration(c.skew.Load()))) {
		c.skew.Store(int64(e.date.Sub(now)))
		return true
	}
	if e.region == used {
		e.region = "" // the region is not the reason
	}
	if e.region == "" || e.Bucket == "" {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.regionLocked(e.Bucket) != e.region { // if equal, another request has stored it
		if len(c.regions) >= maxBuckets {
			clear(c.regions)
		}
		c.regions[e.Bucket] = e.region
		c.log.Debug("s3: bucket is in another region", "bucket", e.Bucket, "region", e.region)
	}
	return true
}

// maxSkew is the smallest difference of the clocks of client and server that
// explains a refusal without a code. S3 allows a difference of 15 minutes, and
// some stores allow 5.
const maxSkew = 5 * time.Minute

// wrongClock reports whether the server refused a request because of the client's
// clock, which shows now. The answer to a HEAD has no body with a code, but it
// has a date.
func wrongClock(e *Error, now time.Time) bool {
	switch {
	case e.date.IsZero():
		return false
	case e.Code == "RequestTimeTooSkewed":
		return true
	}
	return e.Code == "" && (e.Status == http.StatusForbidden || e.Status == http.StatusUnauthorized) && e.date.Sub(now).Abs() > maxSkew
}

// regionLocked returns the region to sign for. mu must be held.
func (c *Client) regionLocked(bucket string) string {
	if r, ok := c.regions[bucket]; ok {
		return r
	}
	return c.sdkOptions.Region
}

func (c *Client) region(bucket string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.regionLocked(bucket)
}

// maxBuckets bounds the maps of regions and targets.
const maxBuckets = 1024

// witness records the requests and answers that the HTTP client below the SDK
// saw in one operation.
type witness struct {
	watch    *watch // nil if the operation is not watched
	fresh    bool   // use a new connection
	sent     int    // number of requests
	endpoint string // scheme and host of the last request
	status   int    // status of the last answer, or 0
	failure  *Error
	answer   *http.Response // the last answer, if it was a failure
	body     []byte         // body of answer
}

type witnessKey struct{}

// maxAnswer bounds the body of an answer other than an object. The longest one
// is a listing of 1,000 keys of 1,024 bytes, which has about 4 MiB because
// escaping triples the keys.
const maxAnswer = 8 << 20

// witnessClient is the SDK's HTTP client. It reads error documents before the
// SDK does, because the SDK drops half of their content, and it bounds bodies.
type witnessClient struct{ c *Client }

// Do sends a request.
func (w *witnessClient) Do(req *http.Request) (*http.Response, error) {
	seen, _ := req.Context().Value(witnessKey{}).(*witness)
	if seen == nil {
		seen = &witness{}
	}
	seen.sent++
	seen.status, seen.failure, seen.answer, seen.endpoint = 0, nil, nil, endpointOf(req.URL)
	client := w.c.client
	if seen.fresh {
		client = w.c.fresh
	}
	if seen.watch != nil {
		if req.Body != nil && req.Body != http.NoBody {
			body := *req
			body.Body = watchedBody{req.Body, seen.watch}
			req = &body
		}
		seen.watch.sent(silence(w.c.retry, req))
	}
	resp, err := client.Do(req)
	if err != nil {
		err = unwrapURL(err)
		seen.failure = &Error{Err: err, Endpoint: endpointOf(req.URL), kind: classifyTransport(err)}
		return nil, err
	}
	seen.status = resp.StatusCode
	if seen.watch != nil {
		seen.watch.touch(0)
		resp.Body = watchedBody{resp.Body, seen.watch}
	}
	if resp.StatusCode >= 300 {
		data, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // the bytes before a read error are still useful
		resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(data))
		seen.failure = fromAnswer(resp, time.Now())
		seen.failure.Endpoint = endpointOf(req.URL)
		resp.Body = io.NopCloser(bytes.NewReader(data))
		seen.answer, seen.body = resp, data
		return resp, nil
	}
	if req.URL.Query().Get("x-id") != "GetObject" {
		resp.Body = &boundedBody{rc: resp.Body, left: maxAnswer}
	}
	return resp, nil
}

func endpointOf(u *url.URL) string { return u.Scheme + "://" + u.Host }

// unwrapURL removes the *url.Error around a client's error, because it repeats
// the whole URL with its query.
func unwrapURL(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// boundedBody fails after a number of bytes, so that no answer is read without
// end.
type boundedBody struct {
	rc   io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.rc.Read(p)
	b.left -= int64(n)
	return n, err
}

func (b *boundedBody) Close() error { return b.rc.Close() }

// unsignedPayload leaves out the SHA-256 of bodies, because TLS and a CRC protect
// them already. The SDK does the same when it computes the CRC.
func unsignedPayload(so *awss3.Options) {
	so.APIOptions = append(slices.Clip(so.APIOptions), func(s *middleware.Stack) error {
		return v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware(s)
	})
}
