package dnsplugin

import (
	"testing"

	"github.com/penstock/penstock/internal/redact/redacttest"
)

func TestSecretsAreRedacted(t *testing.T) {
	redacttest.Check(t, map[string]string{},
		new(Cache), new(Config), new(FastPath), new(NXCut), new(Prefetch), new(Side), new(Stale))
}
