package main

import (
	"errors"
	"os"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

const mib = 1 << 20

// makeData writes the objects into a new folder, which the caller removes.
func makeData(o options) (string, error) {
	under := o.data
	if under == "" {
		under = bench.MemoryFolder(o.size + 2*o.faultSize + distinct*mib)
	}
	dir, err := os.MkdirTemp(under, "penstock-engine-")
	if err != nil {
		return "", err
	}
	d := dataset{dir: dir, objects: o.objects}
	err = errors.Join(
		bench.WriteObject(d.big(), o.size, 0),
		bench.WriteObject(d.fault(), o.faultSize, 0),
		// Each object starts elsewhere in the same text, so that equal offsets hold
		// different bytes.
		bench.WriteObject(d.replacement(), o.faultSize, 1<<40),
	)
	for i := range min(o.objects, distinct) {
		err = errors.Join(err, bench.WriteObject(d.small(i), mib, int64(i)<<32))
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}
