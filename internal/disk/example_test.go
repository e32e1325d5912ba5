package disk_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/penstock/penstock/internal/disk"
)

func ExampleReplace() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "state.json")
	if err := disk.Replace(name, disk.Options{Mode: 0o644, Sync: disk.SyncAll}, disk.Bytes([]byte(`{"n":1}`))); err != nil {
		panic(err)
	}
	b, err := os.ReadFile(name)
	fmt.Println(string(b), err)
	// Output: {"n":1} <nil>
}
