package s3

import (
	"crypto/md5" //nolint:gosec // S3 asks for the MD5 of a customer key as a transmission check
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/internal/nic"
	"github.com/penstock/penstock/internal/ranges"
)

const (
	// DefaultRegion is used if neither the options nor the environment name a
	// region. A bucket elsewhere answers with its region, which the client then
	// remembers.
	DefaultRegion = "us-east-1"
)

// Options configure a Client. The zero value reads everything from the
// environment as the AWS tools do.
type Options struct {
	// Endpoint is the URL of the service, for example http://127.0.0.1:9000.
	// The default is AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile's, or
	// AWS itself.
	Endpoint string
	// Region is the region of the buckets. The default is AWS_REGION, the
	// profile's, or DefaultRegion.
	Region string
	// Profile names a profile of the shared configuration files. The default is
	// AWS_PROFILE or "default".
	Profile string
	// Credentials replaces the chain of environment, profile, web identity,
	// container and instance metadata; see [StaticCredentials]. The client asks
	// it again before its credentials expire, and when the service refuses
	// them.
	Credentials aws.CredentialsProvider
	// Anonymous sends unsigned requests, for public buckets.
	Anonymous bool

	// PathStyle puts the bucket into the path: http://host/bucket/key.
	// VirtualHostStyle puts it into the host's name. Without either, the
	// profile's addressing_style decides, and without that the endpoint: the
	// host's name for Amazon's, and the path for all others.
	PathStyle, VirtualHostStyle bool
	// Accelerate, DualStack and FIPS choose variants of the AWS endpoints.
	Accelerate, DualStack, FIPS bool

	// RequesterPays agrees to pay for requests to such buckets.
	RequesterPays bool
	// ExpectedBucketOwner is the account that must own the bucket. The service
	// answers 403 if another account owns it.
	ExpectedBucketOwner string

	// SSE is the server-side encryption of new objects: "" (the bucket's
	// default), "AES256", "aws:kms" or "aws:kms:dsse".
	SSE string
	// SSEKMSKeyID is the key for the KMS kinds. The default is the account's.
	SSEKMSKeyID string
	// SSECustomerKey is a 32-byte key for reading and writing objects that the
	// server encrypts with it (SSE-C). It is sent with each request, so it needs
	// HTTPS, except to this machine.
	SSECustomerKey []byte
	// SSECustomerKeyFile is a file with the customer key: its 32 bytes, or
	// base64 or hexadecimal digits for them.
	SSECustomerKeyFile string

	// Interfaces are the network interfaces and local addresses over which
	// connections are spread; without any, the routing table chooses.
	// Connections are spread over all addresses of the endpoint in either case.
	Interfaces []string
	// DialContext makes the connections, in tests.
	DialContext httprange.DialContext
	// CABundle is a PEM file with authorities to trust in addition to the
	// system's. The default is AWS_CA_BUNDLE or the profile's ca_bundle, whose
	// authorities are added in the same way.
	CABundle string

	// Retry bounds one attempt, and an operation with all its attempts. It
	// applies to all operations except the reads of a source, which follow the
	// engine's policy. Zero fields mean the engine's defaults.
	Retry ranges.RetryPolicy
	// Budget accounts for upload buffers. The default is the budget of the
	// process.
	Budget *budget.Budget
	// Log receives retries at warn level, at most one line every 10 s, and all
	// retries and redirects at debug level. nil discards them.
	Log *slog.Logger
}

// StaticCredentials returns credentials for Options.Credentials; token may be
// empty.
func StaticCredentials(accessKeyID, secretAccessKey, token string) aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(accessKeyID, secretAccessKey, token)
}

// The kinds of server-side encryption of Options.SSE.
var sseKinds = []string{"", "AES256", "aws:kms", "aws:kms:dsse"}

var (
	regionRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9-]{0,62}$`)
	ownerRE  = regexp.MustCompile(`^[0-9]{12}$`)
)

// Validate reports the first mistake in o.
func (o Options) Validate() error {
	if o.Endpoint != "" {
		if _, err := parseEndpoint(o.Endpoint); err != nil {
			return err
		}
	}
	if static, ok := o.Credentials.(credentials.StaticCredentialsProvider); ok {
		if err := checkKeys(static.Value, optionNames); err != nil {
			return fmt.Errorf("s3: %w", err)
		}
	}
	switch {
	case o.Region != "" && !regionRE.MatchString(o.Region):
		return fmt.Errorf("s3: region %q is not a region name: use for example us-east-1", o.Region)
	case o.Anonymous && (o.Profile != "" || o.Credentials != nil):
		return errors.New("s3: anonymous access takes no profile and no credentials: give one or the other")
	case o.PathStyle && o.VirtualHostStyle:
		return errors.New("s3: path style and virtual-host style exclude each other: give at most one")
	case o.Accelerate && (o.PathStyle || o.Endpoint != ""):
		return errors.New("s3: accelerate works with AWS endpoints in virtual-host style only: leave out the endpoint and path style")
	case o.Accelerate && o.FIPS:
		return errors.New("s3: accelerate has no FIPS endpoints: give one of the two")
	case (o.DualStack || o.FIPS) && o.Endpoint != "":
		return errors.New("s3: dual stack and FIPS choose an AWS endpoint: leave out the endpoint")
	case o.ExpectedBucketOwner != "" && !ownerRE.MatchString(o.ExpectedBucketOwner):
		return fmt.Errorf("s3: expected bucket owner %q is not an account: use its 12 digits", o.ExpectedBucketOwner)
	case !slices.Contains(sseKinds, o.SSE):
		return fmt.Errorf("s3: server-side encryption %q is unknown: use AES256, aws:kms or aws:kms:dsse", o.SSE)
	case o.SSEKMSKeyID != "" && !strings.HasPrefix(o.SSE, "aws:kms"):
		return errors.New("s3: a KMS key needs server-side encryption aws:kms or aws:kms:dsse")
	case len(o.SSECustomerKey) != 0 && len(o.SSECustomerKey) != 32:
		return fmt.Errorf("s3: the customer key has %d bytes: it needs 32", len(o.SSECustomerKey))
	case len(o.SSECustomerKey) != 0 && o.SSECustomerKeyFile != "":
		return errors.New("s3: a customer key and a file with one exclude each other: give one")
	case (len(o.SSECustomerKey) != 0 || o.SSECustomerKeyFile != "") && o.SSE != "":
		return errors.New("s3: a customer key and server-side encryption by the service exclude each other: give one")
	case len(o.Interfaces) > 0 && o.DialContext != nil:
		return errors.New("s3: interfaces and a dial function exclude each other: give one")
	}
	if err := nic.Check(o.Interfaces); err != nil {
		return fmt.Errorf("s3: interfaces: %w", err)
	}
	if err := o.Retry.Validate(); err != nil {
		return fmt.Errorf("s3: %w", err)
	}
	return nil
}

// parseEndpoint checks an endpoint URL.
func parseEndpoint(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("s3: endpoint %q is not a URL: use for example http://127.0.0.1:9000 or https://s3.example.com", httprange.RedactURL(s))
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("s3: endpoint %q: leave out user, query and fragment; credentials go into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", httprange.RedactURL(s))
	}
	return u, nil
}

// amazonDomains are the domains of Amazon's endpoints, in all partitions.
var amazonDomains = []string{
	".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".api.amazonwebservices.com.cn", ".amazonaws.eu",
	".c2s.ic.gov", ".sc2s.sgov.gov", ".csp.hci.ic.gov", ".cloud.adc-e.uk",
}

// pathStyle reports whether the bucket goes into the path. The options decide,
// then the profile's addressing_style. Without either, every endpoint except
// Amazon's uses the path, because all other stores serve the path, and few have
// the DNS wildcard and the certificate that a host name for each bucket needs.
// host is "" for AWS itself.
func pathStyle(o Options, style, host string) bool {
	switch {
	case o.PathStyle:
		return true
	case o.VirtualHostStyle, o.Accelerate:
		return false
	case style != "":
		return style == "path"
	case host == "":
		return false
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return !slices.ContainsFunc(amazonDomains, func(d string) bool { return strings.HasSuffix(host, d) })
}

// isLoopback reports whether the host is this machine.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// readCustomerKey reads a customer key. Its messages never quote the file.
func readCustomerKey(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("s3: customer key: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return nil, fmt.Errorf("s3: customer key: %w", err)
	}
	if len(data) == 32 {
		return data, nil
	}
	text := strings.TrimSpace(string(data))
	if key, err := base64.StdEncoding.DecodeString(text); err == nil && len(key) == 32 {
		return key, nil
	}
	if key, err := hex.DecodeString(text); err == nil && len(key) == 32 {
		return key, nil
	}
	return nil, fmt.Errorf("s3: customer key: %s has no key of 32 bytes: put them there as they are, in base64 or in hexadecimal digits (openssl rand -hex 32)", file)
}

// sseC holds the header values of a customer key, or nil pointers without one.
type sseC struct {
	algorithm, key, md5 *string
}

func newSSEC(key []byte) sseC {
	if len(key) == 0 {
		return sseC{}
	}
	sum := md5.Sum(key) //nolint:gosec // see the import
	return sseC{
		algorithm: aws.String("AES256"),
		key:       aws.String(base64.StdEncoding.EncodeToString(key)),
		md5:       aws.String(base64.StdEncoding.EncodeToString(sum[:])),
	}
}
