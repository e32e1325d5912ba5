package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLayerDecodes(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	if err := os.WriteFile(filepath.Join(top, "a.go"), []byte("package a"), 0o644); err != nil {
		t.Fatal(err)
	}
	layer := filepath.Join(t.TempDir(), "layer.tar.gz")
	size, _, err := makeLayer(layer, top, 1)
	if err != nil || size == 0 {
		t.Fatalf("%d bytes, %v", size, err)
	}
	for _, c := range inGo("self", layer) {
		if err := runGunzip(c.Argv[2:]); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
	if err := runGunzip([]string{"-decoder", "none", "-file", layer}); err == nil {
		t.Error("an unknown decoder was taken")
	}
}
