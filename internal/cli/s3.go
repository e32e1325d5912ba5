package cli

import (
	"time"

	"github.com/spf13/pflag"
)

// S3 points to the options of an S3 store, because s3stream and csi each have
// their own type for the options. A nil field adds no flag.
type S3 struct {
	Endpoint            *string
	Region              *string
	Profile             *string
	ExpectedBucketOwner *string
	CABundle            *string
	SSECustomerKeyFile  *string
	PathStyle           *bool
	VirtualHostStyle    *bool
	Accelerate          *bool
	DualStack           *bool
	FIPS                *bool
	Anonymous           *bool
	RequesterPays       *bool
	Outage              *time.Duration
	Interfaces          *[]string
}

// S3Flags adds the group of flags for the S3 store and its requests. endpoint is
// the name of the endpoint's flag, because --endpoint means something else in some
// programs. No flag takes a secret, because credentials come from the environment
// and files that the AWS tools read.
func (c *Command) S3Flags(endpoint string, o S3) {
	f := c.Group("S3 flags")
	text := func(p *string, name, usage string) {
		if p != nil {
			f.StringVar(p, name, *p, usage)
		}
	}
	on := func(p *bool, name, usage string) {
		if p != nil {
			f.BoolVar(p, name, *p, usage)
		}
	}
	text(o.Endpoint, endpoint, "`URL` of the S3 service (default AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile's, else Amazon S3)")
	text(o.Region, "region", "`REGION` of the buckets (default AWS_REGION or the profile's)")
	text(o.Profile, "profile", "`NAME` of the profile in the shared configuration files")
	on(o.PathStyle, "path-style", "put the bucket into the path of URLs, which is the default for endpoints that are not Amazon's")
	on(o.VirtualHostStyle, "virtual-host-style", "put the bucket into the host name, which is the default for Amazon's endpoints")
	on(o.Accelerate, "transfer-acceleration", "use the bucket's endpoint of S3 Transfer Acceleration")
	on(o.DualStack, "dual-stack", "use Amazon's endpoints that have IPv4 and IPv6 addresses (also AWS_USE_DUALSTACK_ENDPOINT)")
	on(o.FIPS, "fips", "use Amazon's endpoints that are validated for FIPS 140 (also AWS_USE_FIPS_ENDPOINT)")
	text(o.CABundle, "ca-bundle", "PEM `FILE` of certificate authorities to trust in addition to the system's (default AWS_CA_BUNDLE)")
	text(o.SSECustomerKeyFile, "sse-customer-key-file", "`FILE` with the 32-byte key of objects encrypted with a customer key (SSE-C): raw, base64 or hexadecimal")
	on(o.Anonymous, "anonymous", "send unsigned requests, for public buckets")
	on(o.RequesterPays, "requester-pays", "agree to pay for requests and traffic")
	text(o.ExpectedBucketOwner, "expected-bucket-owner", "fail if the bucket belongs to another `ACCOUNT`")
	if o.Outage != nil {
		OutageFlag(f, o.Outage, "store")
	}
	if o.Interfaces != nil {
		InterfacesFlag(f, o.Interfaces)
	}
	c.Old(Old{"--force-path-style", "--path-style"}, Old{"--no-sign-request", "--anonymous"})
}

// defaultOutage is the time that the libraries use for an outage of 0.
const defaultOutage = "1m"

// OutageFlag adds --outage, the time for which the program retries while peer does
// not answer.
func OutageFlag(f *pflag.FlagSet, p *time.Duration, peer string) {
	f.DurationVar(p, "outage", *p, "`DURATION` for which an outage of the "+peer+" is survived; a negative one means one attempt")
	ShowDefault(f, "outage", defaultOutage)
}

// InterfacesFlag adds --interfaces, the network interfaces to send from.
func InterfacesFlag(f *pflag.FlagSet, p *[]string) {
	f.StringSliceVar(p, "interfaces", nil, "`LIST` of network interfaces and local addresses to send from, all of them at once, for example eth0,eth1 (default the routing table's choice)")
}
