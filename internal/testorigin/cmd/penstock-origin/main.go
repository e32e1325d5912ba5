// Command penstock-origin serves folders as S3 buckets and OCI repositories on
// a loopback port, with injected faults, to try Penstock's programs by hand
// against an object store and a registry.
//
//	penstock-origin -bucket weights=/data/weights -faults 'GetObject p=0.1 => status code=503'
//	penstock-origin -root /data/buckets -layout demo/app=/data/app-oci-layout -registry-auth token -redirect
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/penstock/penstock/internal/testorigin"
)

// pairs is a repeatable NAME=FOLDER flag.
type pairs [][2]string

func (p *pairs) String() string { return "" }

func (p *pairs) Set(s string) error {
	name, dir, ok := strings.Cut(s, "=")
	if !ok || name == "" || dir == "" {
		return fmt.Errorf("%q is not NAME=FOLDER", s)
	}
	*p = append(*p, [2]string{name, dir})
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "penstock-origin:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("penstock-origin", flag.ContinueOnError)
	var opts testorigin.Options
	var buckets, layouts pairs
	fs.StringVar(&opts.Addr, "addr", "127.0.0.1:9090", "address to listen on")
	fs.Var(&buckets, "bucket", "serve the files below FOLDER as the bucket NAME (NAME=FOLDER, repeatable)")
	root := fs.String("root", "", "serve each folder below this one as a bucket")
	fs.Var(&layouts, "layout", "serve an OCI image layout as the repository NAME (NAME=FOLDER, repeatable)")
	faults := fs.String("faults", "", "fault script; rules are separated by semicolons")
	quirks := fs.String("quirks", "", "how the origin differs from S3, for example 'list-etag=bare list-order=filer': "+strings.Join(testorigin.QuirkNames(), ", "))
	fs.Uint64Var(&opts.Seed, "seed", 0, "seed of faults and latencies")
	fs.BoolVar(&opts.Anonymous, "anonymous", false, "let unsigned S3 requests in")
	fs.Int64Var(&opts.ConnRate, "conn-rate", 0, "cap of each connection in bytes per second")
	fs.StringVar(&opts.Registry.Auth, "registry-auth", "none", "none, token or basic")
	fs.BoolVar(&opts.Registry.RedirectBlobs, "redirect", false, "redirect blob GETs to presigned URLs")
	checksums := fs.Bool("crc64nvme", false, "give objects full-object checksums (reads each object once)")
	verbose := fs.Bool("v", false, "log every request")
	if err := fs.Parse(args); err != nil {
		if err == flag.ErrHelp { //nolint:errorlint // flag documents the bare value
			return nil
		}
		return err
	}
	var err error
	if opts.Faults, err = testorigin.ParseFaults(*faults); err != nil {
		return err
	}
	if opts.Quirks, err = testorigin.ParseQuirks(*quirks); err != nil {
		return err
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	opts.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	o, err := testorigin.Start(opts)
	if err != nil {
		return err
	}
	defer o.Close()
	if err := load(o, *root, buckets, layouts, testorigin.PutFileOptions{CRC64NVME: *checksums}); err != nil {
		return err
	}
	fmt.Printf("S3 endpoint  %s  (path style, region %s)\n", o.URL(), testorigin.Region)
	fmt.Printf("  AWS_ENDPOINT_URL=%s AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s AWS_REGION=%s\n",
		o.URL(), testorigin.AccessKey, testorigin.SecretKey, testorigin.Region)
	fmt.Printf("registry     %s  (plain HTTP; user %s, password %s if authorization is on)\n",
		o.Host(), testorigin.RegistryUser, testorigin.RegistryPassword)
	<-ctx.Done()
	for _, c := range o.Counters() {
		fmt.Printf("%-16s %8d requests %12d bytes %6d faults  %s\n", c.Op, c.Requests, c.Bytes, c.Faults, c.Key)
	}
	return o.Close()
}

// load fills the origin without copying files.
func load(o *testorigin.Origin, root string, buckets, layouts pairs, po testorigin.PutFileOptions) error {
	if root != "" {
		entries, err := os.ReadDir(root)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.IsDir() {
				buckets = append(buckets, [2]string{e.Name(), root + "/" + e.Name()})
			}
		}
	}
	for _, b := range buckets {
		if err := o.PutDir(b[0], b[1], po); err != nil {
			return err
		}
	}
	for _, l := range layouts {
		if err := o.PutLayout(l[0], l[1]); err != nil {
			return err
		}
	}
	return nil
}
