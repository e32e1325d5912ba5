package csi

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// recheck is how long a client may go on with credentials before it asks for them again. A request that fails because
// they have expired asks at once; this is for keys that were withdrawn, which the store reports as any other refusal.
const recheck = time.Minute

// rotating are credentials that are replaced while requests use them: Kubernetes hands over new ones with every publish.
// Safe for parallel use.
type rotating struct {
	current atomic.Pointer[aws.Credentials]
}

// newRotating starts with the key pair of o; nil if o has none.
func newRotating(o S3Options) *rotating {
	if o.AccessKeyID == "" {
		return nil
	}
	r := &rotating{}
	r.set(o)
	return r
}

// set replaces the credentials by the key pair of o.
func (r *rotating) set(o S3Options) {
	r.current.Store(&aws.Credentials{
		AccessKeyID: o.AccessKeyID, SecretAccessKey: o.SecretAccessKey, SessionToken: o.SessionToken, Source: "volume",
	})
}

// Retrieve implements aws.CredentialsProvider.
func (r *rotating) Retrieve(context.Context) (aws.Credentials, error) {
	c := *r.current.Load()
	c.CanExpire, c.Expires = true, time.Now().Add(recheck)
	return c, nil
}
