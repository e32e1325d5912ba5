package rangestest

import (
	"testing"

	"github.com/penstock/penstock/internal/ranges"
)

func TestSourceConforms(t *testing.T) {
	Conform(t, Target{
		Open: func(_ *testing.T, data []byte) ranges.Source { return &Source{Data: data, Pin: "etag:1"} },
		Replace: func(_ *testing.T, src ranges.Source, data []byte) {
			s := src.(*Source)
			s.Data, s.Pin = data, "etag:2"
		},
	})
}
