package flow

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/registry"
)

// TestPipelineOutcome checks that the outcome is the first failure, not a later
// failure that it caused in another step.
func TestPipelineOutcome(t *testing.T) {
	t.Parallel()
	corrupt := fmt.Errorf("%w: %w", inflate.ErrCorrupt, io.ErrUnexpectedEOF)
	full := fmt.Errorf("write: %w", syscall.ENOSPC)
	network := errors.New("the network is gone")
	for name, tt := range map[string]struct{ fetched, inflated, untarred, cause, want error }{
		"disk full":                         {errCut, errStopped, full, full, full},
		"disk full, inflate waits for more": {errCut, corrupt, full, full, full},
		"disk full, nothing left to fetch":  {nil, errStopped, full, full, full},
		"disk full, all was fetched":        {nil, corrupt, full, full, full},
		"network":                           {network, corrupt, io.ErrUnexpectedEOF, corrupt, network},
		"damaged":                           {nil, corrupt, io.ErrUnexpectedEOF, corrupt, inflate.ErrCorrupt},
		"well":                              {nil, nil, nil, nil, nil},
	} {
		p := &pipeline{diffID: sha256.New(), layer: registry.Layer{Descriptor: ocispec.Descriptor{Digest: digest.FromString("")}, DiffID: digest.FromString("")}}
		p.source.digest, p.stop.cause = sha256.New(), tt.cause
		if err := p.outcome(t.Context(), t.Context(), tt.fetched, tt.inflated, tt.untarred); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
