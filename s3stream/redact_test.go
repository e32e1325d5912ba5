package s3stream

import (
	"testing"

	"github.com/penstock/penstock/internal/redact/redacttest"
)

func TestSecretsAreRedacted(t *testing.T) {
	redacttest.Check(t, map[string]string{
		"S3.AccessKeyID":        "an identifier, which says whose secret is wrong",
		"S3.SSECustomerKeyFile": "the path of a file",
		"Object.Key":            "the name of an object",
	},
		new(Block), new(Error), new(GetOptions), new(Leader), new(LeaderOptions), new(Object), new(Output),
		new(Placement), new(Repair), new(Report), new(S3), new(Worker), new(WorkerOptions), new(WorkerReport))
}
