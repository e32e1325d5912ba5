package soci_test

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// TestPanicFailsOneLayer checks that a panic in a goroutine of a layer becomes
// an error with the layer's digest, leaves no files behind, and does not harm
// the Puller.
func TestPanicFailsOneLayer(t *testing.T) {
	o := origin(t, testorigin.Options{})
	l := gzLayer(goTree(t, "bufio"))
	ref := push(t, o, "panic:1", image(t, here, l))
	var log bytes.Buffer
	p := puller(t, func(o *soci.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	img, err := p.Resolve(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	for name, mine := range map[string]func(compressed, tar int64) bool{
		"fetch":   func(compressed, _ int64) bool { return compressed > 0 },
		"inflate": func(_, tar int64) bool { return tar > 0 },
	} {
		dir := filepath.Join(t.TempDir(), "layer")
		var once atomic.Bool
		_, err := p.UnpackLayer(t.Context(), img, 0, dir, soci.UnpackOptions{Notify: func(compressed, tar int64) {
			if mine(compressed, tar) && once.CompareAndSwap(false, true) {
				panic("a bug in " + name)
			}
		}})
		e, ok := errors.AsType[*soci.Error](err)
		if !ok || !errors.Is(err, soci.ErrInternal) || e.Digest != img.Layers[0].Digest || !strings.Contains(err.Error(), "a bug in "+name) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "goroutine") {
			t.Errorf("%s: the error has the stack: %v", name, err)
		}
		if _, err := p.UnpackLayer(t.Context(), img, 0, dir, soci.UnpackOptions{}); err != nil {
			t.Errorf("%s: the next attempt: %v", name, err)
		}
	}
	if got := log.String(); strings.Count(got, "panic=") != 2 || !strings.Contains(got, "TestPanicFailsOneLayer") {
		t.Errorf("the log has no stacks: %s", got)
	}
}
