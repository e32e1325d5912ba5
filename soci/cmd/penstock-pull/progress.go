package main

import (
	"fmt"
	"strings"
	"sync"

	"github.com/penstock/penstock/internal/cli"
)

// imageProgress implements soci.Progress on a meter. It counts compressed
// bytes, because their sum is known before the pull.
type imageProgress struct {
	meter          *cli.Meter
	items, details func() string // method values, made once

	mu          sync.Mutex // guards the fields below
	reference   string
	done, total int64
	layers      []layerProgress
	ready       int // layers
}

// layerProgress is the state of one layer.
type layerProgress struct {
	done, total int64
	ready       bool
}

func newImageProgress(m *cli.Meter) *imageProgress {
	p := &imageProgress{meter: m}
	p.items, p.details = p.readyLocked, p.layersLocked
	return p
}

// Start implements soci.Progress.
func (p *imageProgress) Start(reference string, layers []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reference = reference
	for _, n := range layers {
		p.total += n
		p.layers = append(p.layers, layerProgress{total: n})
	}
	p.meter.Start(reference, fmt.Sprintf(": %d layers, %s", len(p.layers), cli.Megabytes(p.total)), p.total)
}

// Advance implements soci.Progress. A negative layer is an unknown one.
func (p *imageProgress) Advance(layer int, compressed, _ int64) {
	if compressed == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += compressed
	if layer >= 0 && layer < len(p.layers) {
		p.layers[layer].done += compressed
	}
	p.meter.Set(p.done, p.items, p.details)
}

// Done implements soci.Progress.
func (p *imageProgress) Done(layer int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready++
	if layer >= 0 && layer < len(p.layers) {
		p.layers[layer].ready = true
	}
	p.meter.Describe(p.reference + ", " + p.readyLocked())
}

// readyLocked returns how many layers are ready. p.mu must be held.
func (p *imageProgress) readyLocked() string {
	return fmt.Sprintf("%d of %d layers", p.ready, len(p.layers))
}

// layersLocked returns the share of each layer that is being fetched, counted
// from the lowest. p.mu must be held.
func (p *imageProgress) layersLocked() string {
	var out strings.Builder
	for i, l := range p.layers {
		if l.done > 0 && !l.ready {
			fmt.Fprintf(&out, "; layer %d at %d %%", i+1, 100*l.done/max(l.total, 1))
		}
	}
	return out.String()
}
