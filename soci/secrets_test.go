package soci

import (
	"testing"

	"github.com/penstock/penstock/internal/redact/redacttest"
)

func TestSecretsAreRedacted(t *testing.T) {
	redacttest.Check(t, map[string]string{},
		new(Credential), new(Error), new(Image), new(ImageLayer), new(Layer), new(Layout), new(Limit), new(Limits), new(Network),
		new(Options), new(Puller), new(Result), new(Stats), new(Timing), new(UnpackOptions), new(UnpackedLayer))
}
