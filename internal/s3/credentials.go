package s3

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// renewAtMost keeps a crowd of requests that fail with the same expired token
// from fetching as many new ones: the first renews, the others find it done.
const renewAtMost = 5 * time.Second

// credentialSource passes on the chain's credentials with errors that a person
// understands, and renews them when the service says that they have expired.
type credentialSource struct {
	inner   aws.CredentialsProvider // a *aws.CredentialsCache, unless configured otherwise
	profile string

	mu      sync.Mutex // guards renewed; leaf
	renewed time.Time
}

// Retrieve returns the credentials, from the cache while they are valid.
func (s *credentialSource) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if s.inner == nil {
		return aws.Credentials{}, s.missing(nil)
	}
	cr, err := s.inner.Retrieve(ctx)
	if err != nil && ctx.Err() == nil {
		return cr, s.missing(err)
	}
	return cr, err
}

func (s *credentialSource) missing(err error) error {
	profile := "profile " + s.profile
	if s.profile == "" {
		profile = "shared profile"
	}
	text := fmt.Sprintf("tried the environment, %s, web identity, container and instance metadata; "+
		"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or use anonymous access for a public bucket", profile)
	if err == nil {
		return fmt.Errorf("%w: %s", ErrNoCredentials, text)
	}
	return &credentialError{text: text, cause: err}
}

// credentialError keeps the chain's long story out of the message but not out
// of the error.
type credentialError struct {
	text  string
	cause error
}

func (e *credentialError) Error() string   { return ErrNoCredentials.Error() + ": " + e.text }
func (e *credentialError) Unwrap() []error { return []error{ErrNoCredentials, e.cause} }

// renew makes the next Retrieve fetch anew.
func (s *credentialSource) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.renewed.IsZero() && time.Since(s.renewed) < renewAtMost {
		return
	}
	s.renewed = time.Now()
	if cache, ok := s.inner.(*aws.CredentialsCache); ok {
		cache.Invalidate()
	}
}
