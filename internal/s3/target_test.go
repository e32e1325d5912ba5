package s3

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

// TestTargets checks the URLs for endpoints, styles, names and ARNs, without a
// network.
func TestTargets(t *testing.T) {
	isolate(t)
	const ap = "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine"
	for _, tc := range []struct {
		name        string
		o           Options
		env         map[string]string
		bucket, key string
		style       string // the profile's
		want        string // URL
		region      string // to sign for
		service     string
		long        bool
	}{
		{name: "virtual host", bucket: "data", key: "a/b c", want: "https://data.s3.us-east-1.amazonaws.com/a/b%20c"},
		{name: "region", o: Options{Region: "eu-west-3"}, bucket: "data", key: "k", want: "https://data.s3.eu-west-3.amazonaws.com/k", region: "eu-west-3"},
		{name: "region by environment", env: map[string]string{"AWS_REGION": "eu-west-3"}, bucket: "data", key: "k", want: "https://data.s3.eu-west-3.amazonaws.com/k", region: "eu-west-3"},
		{name: "dots need the path under TLS", bucket: "my.data", key: "k", want: "https://s3.us-east-1.amazonaws.com/my.data/k"},
		{name: "forced path", o: Options{PathStyle: true}, bucket: "data", key: "k", want: "https://s3.us-east-1.amazonaws.com/data/k"},
		{name: "dual stack", o: Options{DualStack: true}, bucket: "data", key: "k", want: "https://data.s3.dualstack.us-east-1.amazonaws.com/k"},
		{name: "FIPS", o: Options{FIPS: true}, bucket: "data", key: "k", want: "https://data.s3-fips.us-east-1.amazonaws.com/k"},
		{name: "accelerate", o: Options{Accelerate: true}, bucket: "data", key: "k", want: "https://data.s3-accelerate.amazonaws.com/k"},
		{name: "accelerate and dual stack", o: Options{Accelerate: true, DualStack: true}, bucket: "data", key: "k", want: "https://data.s3-accelerate.dualstack.amazonaws.com/k"},
		{name: "FIPS and dual stack", o: Options{FIPS: true, DualStack: true, Region: "us-gov-west-1"}, bucket: "data", key: "k", want: "https://data.s3-fips.dualstack.us-gov-west-1.amazonaws.com/k", region: "us-gov-west-1"},
		{name: "dual stack by environment", env: map[string]string{"AWS_USE_DUALSTACK_ENDPOINT": "true"}, bucket: "data", key: "k", want: "https://data.s3.dualstack.us-east-1.amazonaws.com/k"},
		{name: "FIPS by environment", env: map[string]string{"AWS_USE_FIPS_ENDPOINT": "true"}, bucket: "data", key: "k", want: "https://data.s3-fips.us-east-1.amazonaws.com/k"},
		{name: "IPv4 endpoint", o: Options{Endpoint: "http://127.0.0.1:9000"}, bucket: "data", key: "k", want: "http://127.0.0.1:9000/data/k"},
		{name: "IPv6 endpoint", o: Options{Endpoint: "http://[::1]:9000/"}, bucket: "data", key: "k", want: "http://[::1]:9000/data/k"},
		{name: "localhost endpoint", o: Options{Endpoint: "http://localhost:9000"}, bucket: "data", key: "k", want: "http://localhost:9000/data/k"},
		{name: "container name", o: Options{Endpoint: "http://store:9000"}, bucket: "data", key: "k", want: "http://store:9000/data/k"},
		{name: "named endpoint", o: Options{Endpoint: "https://s3.example.com"}, bucket: "data", key: "k", want: "https://s3.example.com/data/k"},
		{name: "named endpoint, virtual host", o: Options{Endpoint: "https://s3.example.com", VirtualHostStyle: true}, bucket: "data", key: "k", want: "https://data.s3.example.com/k"},
		{name: "named endpoint, virtual host by profile", o: Options{Endpoint: "https://s3.example.com"}, style: "virtual", bucket: "data", key: "k", want: "https://data.s3.example.com/k"},
		{name: "AWS, path by profile", style: "path", bucket: "data", key: "k", want: "https://s3.us-east-1.amazonaws.com/data/k"},
		{name: "Amazon's endpoint by name", o: Options{Endpoint: "https://S3.eu-west-3.amazonaws.com"}, bucket: "data", key: "k", want: "https://data.S3.eu-west-3.amazonaws.com/k"},
		{name: "Amazon's VPC endpoint", o: Options{Endpoint: "https://bucket.vpce-1a2b3c4d.s3.eu-west-3.vpce.amazonaws.com"}, bucket: "data", key: "k", want: "https://data.bucket.vpce-1a2b3c4d.s3.eu-west-3.vpce.amazonaws.com/k"},
		{name: "no Amazon", o: Options{Endpoint: "https://notamazonaws.com"}, bucket: "data", key: "k", want: "https://notamazonaws.com/data/k"},
		{name: "localhost, virtual host", o: Options{Endpoint: "http://localhost:9000", VirtualHostStyle: true}, bucket: "data", key: "k", want: "http://data.localhost:9000/k"},
		{name: "endpoint with a path", o: Options{Endpoint: "http://127.0.0.1:9000/s3"}, bucket: "data", key: "k", want: "http://127.0.0.1:9000/s3/data/k"},
		{name: "AWS_ENDPOINT_URL", env: map[string]string{"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, bucket: "data", key: "k", want: "http://127.0.0.1:1/data/k"},
		{name: "AWS_ENDPOINT_URL_S3 wins", env: map[string]string{"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:2"}, bucket: "data", key: "k", want: "http://127.0.0.1:2/data/k"},
		{name: "option wins", o: Options{Endpoint: "http://127.0.0.1:3"}, env: map[string]string{"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:2"}, bucket: "data", key: "k", want: "http://127.0.0.1:3/data/k"},
		{name: "access point", bucket: ap, key: "k", want: "https://mine-123456789012.s3-accesspoint.eu-west-1.amazonaws.com/k", region: "eu-west-1"},
		{name: "object lambda", bucket: "arn:aws:s3-object-lambda:eu-west-1:123456789012:accesspoint/mine", key: "k", want: "https://mine-123456789012.s3-object-lambda.eu-west-1.amazonaws.com/k", region: "eu-west-1", service: "s3-object-lambda"},
		{name: "multi-region access point", bucket: "arn:aws:s3::123456789012:accesspoint/mine.mrap", key: "k", want: "https://mine.mrap.accesspoint.s3-global.amazonaws.com/k", long: true},
		{name: "directory bucket", bucket: "data--use1-az4--x-s3", key: "k", want: "https://data--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com/k", long: true},
		{name: "China", o: Options{Region: "cn-north-1"}, bucket: "data", key: "k", want: "https://data.s3.cn-north-1.amazonaws.com.cn/k", region: "cn-north-1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			if tc.style != "" {
				file := filepath.Join(t.TempDir(), "config")
				if err := os.WriteFile(file, []byte("[default]\ns3 =\n  addressing_style = "+tc.style+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				t.Setenv("AWS_CONFIG_FILE", file)
			}
			tc.o.Credentials = StaticCredentials("a", "b", "")
			c, err := New(t.Context(), tc.o)
			if err != nil {
				t.Fatal(err)
			}
			tg, err := c.target(t.Context(), tc.bucket)
			if err != nil {
				t.Fatal(err)
			}
			if got := tg.url(tc.key, ""); got != tc.want {
				t.Errorf("URL %s, want %s", got, tc.want)
			}
			if tg.plain == tc.long {
				t.Errorf("plain signature: %v", tg.plain)
			}
			region, service := tc.region, tc.service
			if region == "" {
				region = DefaultRegion
			}
			if service == "" {
				service = "s3"
			}
			if !tc.long && (tg.region != region || tg.service != service) {
				t.Errorf("signs for %s in %s, want %s in %s", tg.service, tg.region, service, region)
			}
			if again, _ := c.target(t.Context(), tc.bucket); again != tg {
				t.Error("resolved twice")
			}
			if host := c.Host(tc.bucket); !strings.Contains(tc.want, "//"+host+"/") {
				t.Errorf("host %s", host)
			}
		})
	}
}

// TestVirtualHostStyle reads, lists and writes with the bucket in the host
// name, which the origin serves below .localhost.
func TestVirtualHostStyle(t *testing.T) {
	origin := start(t, testorigin.Options{})
	addr := strings.TrimPrefix(origin.URL(), "http://")
	_, port, _ := net.SplitHostPort(addr)
	var hosts []string
	c := connect(t, origin, Options{
		Endpoint: "http://localhost:" + port, VirtualHostStyle: true,
		DialContext: func(ctx context.Context, network, host string) (net.Conn, error) {
			hosts = append(hosts, host)
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	})
	if _, err := c.Put(t.Context(), "data", "dir/k", strings.NewReader("bytes"), PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if info, err := c.Head(t.Context(), "data", "dir/k"); err != nil || info.Size != 5 {
		t.Errorf("%+v, %v", info, err)
	}
	if got, err := collect(t.Context(), c, "data", ListOptions{}); err != nil || !slices.Equal(got, []string{"dir/k"}) {
		t.Errorf("%q, %v", got, err)
	}
	if got, _, err := get(t.Context(), c.Source("data", "dir/k", SourceOptions{}), ranges.Request{Len: 5}); err != nil || string(got) != "bytes" {
		t.Errorf("%q, %v", got, err)
	}
	if want := "data.localhost:" + port; len(hosts) == 0 || slices.ContainsFunc(hosts, func(h string) bool { return h != want }) {
		t.Errorf("dialed %q, want %s", hosts, want)
	}
}

func TestTargetErrors(t *testing.T) {
	isolate(t)
	c, err := New(t.Context(), Options{Credentials: StaticCredentials("a", "b", ""), Retry: ranges.RetryPolicy{Attempts: -1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, bucket := range []string{"arn:aws:s3:eu-west-1", "arn:aws:sns:eu-west-1:123456789012:topic"} {
		if _, err := c.target(t.Context(), bucket); err == nil || !strings.Contains(err.Error(), bucket) {
			t.Errorf("%s: %v", bucket, err)
		}
		_, err := c.Head(t.Context(), bucket, "k")
		wantText(t, err, "s3: head s3://"+bucket+"/k: ")
	}
	_, err = c.Head(t.Context(), "data", "")
	wantText(t, err, "s3: head s3://data: ")
	if got := c.Spec("data", "k", ObjectInfo{}); got.Size != -1 || got.Pin != "" || got.Name != "s3://data/k" {
		t.Errorf("spec of an unknown object: %+v", got)
	}
}

func TestOptions(t *testing.T) {
	isolate(t)
	key := make([]byte, 32)
	for _, tc := range []struct {
		o    Options
		text string
	}{
		{Options{Endpoint: "127.0.0.1:9000"}, `endpoint "127.0.0.1:9000" is not a URL: use for example http://`},
		{Options{Endpoint: "ftp://x"}, "is not a URL"},
		{Options{Endpoint: "http://user:secret@host"}, "leave out user"},
		{Options{Endpoint: "http://host/?a=b"}, "leave out user"},
		{Options{Region: "eu west"}, `region "eu west"`},
		{Options{Anonymous: true, Profile: "p"}, "anonymous"},
		{Options{PathStyle: true, VirtualHostStyle: true}, "exclude each other"},
		{Options{Accelerate: true, Endpoint: "http://h"}, "accelerate"},
		{Options{FIPS: true, Endpoint: "http://h"}, "FIPS"},
		{Options{Accelerate: true, FIPS: true}, "accelerate has no FIPS endpoints"},
		{Options{ExpectedBucketOwner: "me"}, "12 digits"},
		{Options{SSE: "rot13"}, "AES256, aws:kms or aws:kms:dsse"},
		{Options{SSEKMSKeyID: "k"}, "needs server-side encryption"},
		{Options{SSECustomerKey: key[:5]}, "5 bytes: it needs 32"},
		{Options{SSECustomerKey: key, SSE: "AES256"}, "exclude each other"},
		{Options{SSECustomerKey: key, Endpoint: "http://s3.example.com"}, "unencrypted"},
		{Options{Interfaces: []string{"nosuchif0"}}, "nosuchif0"},
		{Options{Profile: "nobody"}, `no profile "nobody"`},
		{Options{CABundle: "/does/not/exist"}, "CA bundle"},
	} {
		_, err := New(t.Context(), tc.o)
		wantText(t, err, tc.text)
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%v has the password", err)
		}
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", "nonsense")
	_, err := New(t.Context(), Options{})
	wantText(t, err, "AWS_ENDPOINT_URL_S3")
}

// The profile sets region and endpoint, as for the AWS tools.
func TestProfile(t *testing.T) {
	isolate(t)
	file := filepath.Join(t.TempDir(), "config")
	text := "[profile lab]\nregion = eu-west-3\nendpoint_url = http://127.0.0.1:7\naws_access_key_id = AKIALAB\naws_secret_access_key = x\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", file)
	c, err := New(t.Context(), Options{Profile: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	cr, err := c.credentials.Retrieve(t.Context())
	if err != nil || cr.AccessKeyID != "AKIALAB" || c.Region() != "eu-west-3" || c.Host("b") != "127.0.0.1:7" {
		t.Errorf("%s, %s, %s, %v", cr.AccessKeyID, c.Region(), c.Host("b"), err)
	}
}
