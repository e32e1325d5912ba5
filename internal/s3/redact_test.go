package s3

import (
	"fmt"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/redact/redacttest"
)

func TestSecretsAreRedacted(t *testing.T) {
	redacttest.Check(t, map[string]string{
		"Entry.Key":                  "the name of an object",
		"Error.Key":                  "the name of an object",
		"ObjectInfo.Key":             "the name of an object",
		"Options.SSEKMSKeyID":        "the name of a key",
		"Options.SSECustomerKeyFile": "the path of a file",
	},
		new(Client), new(Entry), new(Error), new(ListOptions), new(ObjectInfo), new(Options), new(PutOptions), new(PutResult),
		new(SourceOptions))
}

// Credentials are an interface, whose value the check cannot fill.
func TestCredentialsAreRedacted(t *testing.T) {
	o := Options{Region: "eu-west-3", Credentials: StaticCredentials("AKIA", "hunter2", "hunter2")}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d"} {
		if got := fmt.Sprintf(verb, o); strings.Contains(got, "hunter2") || !strings.Contains(got, "eu-west-3") {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}
