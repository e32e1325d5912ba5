package csi

import (
	"testing"

	"github.com/penstock/penstock/internal/redact/redacttest"
)

func TestSecretsAreRedacted(t *testing.T) {
	redacttest.Check(t, map[string]string{
		"S3Options.AccessKeyID":        "an identifier, which says whose secret is wrong",
		"S3Options.SSECustomerKeyFile": "the path of a file",
		"Object.Key":                   "the name of an object",
	},
		new(Bucket), new(BucketOptions), new(Driver), new(Entry), new(MountOptions), new(Mounted), new(Object), new(Options),
		new(S3Options))
}
