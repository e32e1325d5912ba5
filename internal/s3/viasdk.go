package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// sdkTransport answers GETs of one source by the SDK's GetObject. It serves
// targets that need a signature other than version 4, and httprange checks its
// answers like all others.
type sdkTransport struct{ s *source }

// sdkClient returns an HTTP client whose requests the SDK makes.
func sdkClient(s *source) *http.Client {
	return &http.Client{
		Transport:     sdkTransport{s},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// RoundTrip makes the request that req describes.
func (t sdkTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	s := t.s
	in := &awss3.GetObjectInput{
		Bucket:               aws.String(s.bucket),
		Key:                  aws.String(s.key),
		Range:                header(req.Header, "Range"),
		IfMatch:              header(req.Header, "If-Match"),
		SSECustomerAlgorithm: s.c.sseC.algorithm,
		SSECustomerKey:       s.c.sseC.key,
		SSECustomerKeyMD5:    s.c.sseC.md5,
	}
	if date, err := http.ParseTime(req.Header.Get("If-Unmodified-Since")); err == nil {
		in.IfUnmodifiedSince = &date
	}
	if v := req.URL.Query().Get("versionId"); v != "" {
		in.VersionId = aws.String(v)
	}
	seen := &witness{}
	ctx := context.WithValue(req.Context(), witnessKey{}, seen)
	out, err := s.c.sdk.GetObject(ctx, in, func(so *awss3.Options) {
		so.Region = s.c.region(s.bucket)
		if coversStart(req.Header["Range"]) {
			// The mode is set as a header and not as a parameter. With the
			// parameter the SDK would verify the body, which the engine does at
			// less cost.
			so.APIOptions = append(so.APIOptions[:len(so.APIOptions):len(so.APIOptions)], smithyhttp.SetHeaderValue("X-Amz-Checksum-Mode", enabled[0]))
		}
	})
	if err != nil && seen.answer != nil && ctx.Err() == nil {
		resp := *seen.answer // for the checks, which read the body again
		resp.Body, resp.Request = io.NopCloser(bytes.NewReader(seen.body)), req
		return &resp, nil
	}
	if err != nil {
		return nil, fromSDK(ctx, opGet, s.bucket, s.key, err, seen)
	}
	raw, ok := awsmiddleware.GetRawResponse(out.ResultMetadata).(*smithyhttp.Response)
	if !ok {
		out.Body.Close()
		return nil, fmt.Errorf("the SDK returned no HTTP response: %w", errors.ErrUnsupported)
	}
	resp := *raw.Response
	resp.Body, resp.Request = out.Body, req
	return &resp, nil
}

// header returns a header line as a parameter of the SDK, or nil.
func header(h http.Header, name string) *string {
	if v := h.Get(name); v != "" {
		return &v
	}
	return nil
}
