package s3

import (
	"context"
	"net/http"

	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// acceptEncoding is sent but not signed, because proxies and gateways in front
// of a store rewrite or drop it, which would make a signature over it wrong.
const acceptEncoding = "Accept-Encoding"

// signPlain signs a request for a service and a region.
func (c *Client) signPlain(ctx context.Context, req *http.Request, payload, service, region string) error {
	cr, err := c.credentials.Retrieve(ctx)
	if err != nil {
		return err
	}
	kept := req.Header[acceptEncoding]
	delete(req.Header, acceptEncoding)
	err = c.signer.SignHTTP(ctx, cr, req, payload, service, region, c.now())
	if kept != nil {
		req.Header[acceptEncoding] = kept
	}
	return err
}

// signingStep is the SDK's name of the middleware that signs.
const signingStep = "Signing"

// hideAcceptEncoding removes the header while the SDK signs. Each operation has
// a stack of its own and signs once, because the SDK's retries are off.
func hideAcceptEncoding(stack *middleware.Stack) error {
	var kept []string
	header := func(in middleware.FinalizeInput) http.Header {
		if req, ok := in.Request.(*smithyhttp.Request); ok {
			return req.Header
		}
		return http.Header{}
	}
	hide := middleware.FinalizeMiddlewareFunc("penstockHideAcceptEncoding",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			h := header(in)
			kept = h[acceptEncoding]
			delete(h, acceptEncoding)
			return next.HandleFinalize(ctx, in)
		})
	show := middleware.FinalizeMiddlewareFunc("penstockShowAcceptEncoding",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			if kept != nil {
				header(in)[acceptEncoding] = kept
			}
			return next.HandleFinalize(ctx, in)
		})
	if err := stack.Finalize.Insert(hide, signingStep, middleware.Before); err != nil {
		return err
	}
	return stack.Finalize.Insert(show, signingStep, middleware.After)
}
