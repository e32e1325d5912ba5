package s3

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	smithyauth "github.com/aws/smithy-go/auth"
	"github.com/aws/smithy-go/encoding/httpbinding"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// target is the result of the SDK's endpoint rules for a bucket in a region.
type target struct {
	base    string // scheme, host and bucket part of the path, without a slash at the end
	host    string // the limiter's key: buckets that share a host share its limits
	region  string // to sign for
	service string // to sign for: s3, s3-object-lambda, s3-outposts
	header  http.Header
	plain   bool // requests need signature version 4 or none, and so not the SDK

	noVersions *atomic.Bool // reading versions was refused
}

// targetID names a target.
type targetID struct{ region, bucket string }

// target returns the target of a bucket, resolving it when it is new.
func (c *Client) target(ctx context.Context, bucket string) (*target, error) {
	c.mu.Lock()
	id := targetID{c.regionLocked(bucket), bucket}
	t := c.targets[id]
	c.mu.Unlock()
	if t != nil {
		return t, nil
	}
	t, err := c.resolve(ctx, id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.targets) >= maxBuckets {
		clear(c.targets)
	}
	c.targets[id] = t
	return t, nil
}

// resolve runs the SDK's endpoint rules, as its middleware does.
func (c *Client) resolve(ctx context.Context, id targetID) (*target, error) {
	if err := CheckBucket(id.bucket); err != nil {
		return nil, err
	}
	so := &c.sdkOptions
	ep, err := so.EndpointResolverV2.ResolveEndpoint(ctx, awss3.EndpointParameters{
		Bucket:                         aws.String(id.bucket),
		Region:                         aws.String(id.region),
		Endpoint:                       so.BaseEndpoint,
		UseFIPS:                        aws.Bool(so.EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled),
		UseDualStack:                   aws.Bool(so.EndpointOptions.UseDualStackEndpoint == aws.DualStackEndpointStateEnabled),
		ForcePathStyle:                 aws.Bool(so.UsePathStyle),
		Accelerate:                     aws.Bool(so.UseAccelerate),
		DisableMultiRegionAccessPoints: aws.Bool(so.DisableMultiRegionAccessPoints),
		UseArnRegion:                   aws.Bool(so.UseARNRegion),
		DisableS3ExpressSessionAuth:    so.DisableS3ExpressSessionAuth,
	})
	if err != nil {
		return nil, fmt.Errorf("no endpoint for bucket %q in region %q: %w", id.bucket, id.region, err)
	}
	uri := ep.URI
	t := &target{host: uri.Host, region: id.region, service: "s3", header: ep.Headers, plain: true, noVersions: new(atomic.Bool)}
	t.base = uri.Scheme + "://" + uri.Host + strings.TrimSuffix(uri.EscapedPath(), "/")
	schemes, _ := smithyauth.GetAuthOptions(&ep.Properties)
	for i, s := range schemes {
		if i > 0 {
			break // the first scheme is the preferred one
		}
		// The rules use the short name, the SDK's schemes the long one.
		t.plain = s.SchemeID == "sigv4" || s.SchemeID == smithyauth.SchemeIDSigV4
		if n, ok := smithyhttp.GetSigV4SigningName(&s.SignerProperties); ok {
			t.service = n
		}
		if r, ok := smithyhttp.GetSigV4SigningRegion(&s.SignerProperties); ok {
			t.region = r
		}
	}
	if c.credentials == nil {
		t.plain = true
	}
	return t, nil
}

// url returns the URL of an object. The key is escaped as the signature
// requires: each byte but letters, digits and -._~/ becomes %XX.
func (t *target) url(key, versionID string) string {
	u := t.base + "/" + httpbinding.EscapePath(key, false)
	if versionID != "" {
		u += "?versionId=" + httpbinding.EscapePath(versionID, true)
	}
	return u
}
