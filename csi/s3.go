package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/redact"
	"github.com/penstock/penstock/internal/s3"
)

// S3Options say where S3 is and who asks. The zero value takes all from the environment as the AWS tools do:
// AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE, and the credential chain.
type S3Options struct {
	Endpoint string // URL; "" is the environment's or AWS itself
	Region   string
	Profile  string // of the shared configuration files

	// AccessKeyID and SecretAccessKey, with SessionToken for temporary ones, replace the credential chain.
	AccessKeyID, SecretAccessKey, SessionToken string
	// Anonymous sends unsigned requests, for public buckets.
	Anonymous bool

	// PathStyle puts the bucket into the path of URLs, and VirtualHostStyle into the host name. Without either, the
	// profile's addressing_style decides, and without that the endpoint: the host name for Amazon's, the path for others.
	PathStyle, VirtualHostStyle bool
	// Accelerate uses the bucket's endpoint of S3 Transfer Acceleration.
	Accelerate bool
	// DualStack uses Amazon's endpoints that have IPv4 and IPv6 addresses, and FIPS the endpoints validated for FIPS 140.
	DualStack, FIPS bool

	RequesterPays       bool   // agree to pay for requests and traffic
	ExpectedBucketOwner string // account that must own the bucket; "" is any
	CABundle            string // PEM file of authorities to trust in addition to the system's
	SSECustomerKeyFile  string // file with the key of objects encrypted by SSE-C: 32 bytes, or base64 or hexadecimal digits

	// Interfaces are the network interfaces ("eth1") and local IP addresses over which connections are spread, so that a
	// node reads through all its network cards. A connection uses the interface with the fewest connections; an interface
	// that fails is avoided until it works again. Empty lets the routing table choose. Volumes use the driver's value.
	Interfaces []string

	// Outage is how long requests are repeated while the store is away, before a system call fails. 0 is a minute, negative
	// that nothing is repeated. Volumes of one driver share the driver's value for reads.
	Outage time.Duration
}

// Validate returns what is wrong with the options, and how to put it right.
func (o S3Options) Validate() error {
	switch {
	case (o.AccessKeyID == "") != (o.SecretAccessKey == ""):
		return errors.New("half of a key pair: give both access key id and secret access key, or neither")
	case o.SessionToken != "" && o.AccessKeyID == "":
		return errors.New("session token without a key pair: give access key id and secret access key as well")
	case o.Anonymous && o.AccessKeyID != "":
		return errors.New("anonymous requests and a key pair: give one of the two")
	}
	return o.client(nil).Validate()
}

// client returns the options of the client below.
func (o S3Options) client(log *slog.Logger) s3.Options {
	c := s3.Options{
		Endpoint: o.Endpoint, Region: o.Region, Profile: o.Profile, Anonymous: o.Anonymous,
		PathStyle: o.PathStyle, VirtualHostStyle: o.VirtualHostStyle, Accelerate: o.Accelerate, DualStack: o.DualStack, FIPS: o.FIPS,
		RequesterPays: o.RequesterPays, ExpectedBucketOwner: o.ExpectedBucketOwner, CABundle: o.CABundle, Log: log,
		SSECustomerKeyFile: o.SSECustomerKeyFile, Interfaces: o.Interfaces,
		Retry: ranges.RetryPolicy{Outage: o.Outage},
	}
	if o.AccessKeyID != "" {
		c.Credentials = s3.StaticCredentials(o.AccessKeyID, o.SecretAccessKey, o.SessionToken)
	}
	return c
}

// newClient makes a client; creds, if not nil, are asked instead of the key pair of o. It makes no request.
func (o S3Options) newClient(ctx context.Context, log *slog.Logger, creds *rotating) (*s3.Client, error) {
	c := o.client(log)
	if creds != nil {
		c.Credentials = creds
	}
	return s3.New(ctx, c)
}

// String returns the fields that are set, without secrets.
func (o S3Options) String() string { return redact.Struct(o, "SecretAccessKey", "SessionToken") }

// Format implements [fmt.Formatter]: every verb prints String.
func (o S3Options) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, o.String()) }

// MarshalJSON writes String as a JSON string.
func (o S3Options) MarshalJSON() ([]byte, error) { return json.Marshal(o.String()) }

// LogValue returns String, for log/slog.
func (o S3Options) LogValue() slog.Value { return slog.StringValue(o.String()) }
