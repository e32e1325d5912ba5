package untar_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/penstock/penstock/soci/internal/untar"
)

func ExampleMerge() {
	work, _ := os.MkdirTemp("", "layers-")
	defer os.RemoveAll(work)
	pool := untar.NewPool(2, 0)
	defer pool.Close()
	meter := untar.NewMemory(-1, nil).Meter(untar.DefaultLimits())

	var layers []*untar.Layer
	for i, files := range []map[string]string{
		{"etc/motd": "old", "etc/issue": "gone soon"},
		{"etc/motd": "new", "etc/.wh.issue": ""},
	} {
		dir := filepath.Join(work, fmt.Sprint(i))
		os.Mkdir(dir, 0o755)
		l, err := untar.Extract(context.Background(), layer(files), dir, untar.Options{Pool: pool, Meter: meter})
		if err != nil {
			fmt.Println(err)
			return
		}
		layers = append(layers, l)
	}
	if err := untar.Merge(context.Background(), layers[0].Dir, layers[1]); err != nil {
		fmt.Println(err)
		return
	}
	motd, _ := os.ReadFile(filepath.Join(work, "0/etc/motd"))
	_, err := os.Stat(filepath.Join(work, "0/etc/issue"))
	fmt.Printf("motd is %q, issue exists: %v\n", motd, err == nil)
	// Output: motd is "new", issue exists: false
}

func layer(files map[string]string) *bytes.Buffer {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, body := range files {
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))})
		w.Write([]byte(body))
	}
	w.Close()
	return &buf
}
