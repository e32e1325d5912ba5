// Command pull-image pulls a container image into a directory and prints the
// time and the number of bytes:
//
//	go run ./examples/pull-image docker.io/library/alpine:3.20 /tmp/alpine
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/penstock/penstock/soci"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: pull-image REFERENCE DIRECTORY")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := pull(ctx, os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func pull(ctx context.Context, reference, dir string) error {
	// The zero Options work too. This program limits its buffers to 64 MiB.
	p, err := soci.New(soci.Options{Memory: 64 << 20})
	if err != nil {
		return err
	}
	defer p.Close()

	res, err := p.Pull(ctx, reference, dir)
	switch {
	case errors.Is(err, soci.ErrNotFound):
		return fmt.Errorf("there is no such image: %w", err)
	case errors.Is(err, soci.ErrDenied):
		return fmt.Errorf("log in with docker login first: %w", err)
	case err != nil:
		return err
	}
	fmt.Printf("%s (%s) is in %s\n", res.Reference, res.Platform, res.Dir)
	for _, l := range res.Layers {
		fmt.Printf("  %s %10d bytes, %s, %10d bytes in %d files\n", l.Digest, l.CompressedBytes, l.Compression, l.FileBytes, l.Files)
	}
	fmt.Printf("%.2f s for %d requests\n", res.Timing.Wall.Seconds(), res.Network.Requests)
	for _, w := range res.Warnings {
		fmt.Println("warning:", w)
	}
	return nil
}
