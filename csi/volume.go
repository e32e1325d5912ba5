package csi

import (
	"fmt"
	iofs "io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/s3"
)

// volume is what a publish request asks for, parsed.
type volume struct {
	bucket BucketOptions
}

// attributes are the keys of volumeAttributes of a PersistentVolume, with what they set. bucketName is required.
var attributes = map[string]func(*BucketOptions, string) error{
	"bucketName":  func(o *BucketOptions, v string) error { o.Bucket = v; return nil },
	"prefix":      setPrefix,
	"region":      setRegion,
	"endpointURL": setEndpoint,
}

// flags are the mount options that take a value, switches those that take none. They are those of the mount subcommand,
// and of Mountpoint for Amazon S3 where both mean the same.
var (
	flags = map[string]func(*BucketOptions, string) error{
		"prefix":                setPrefix,
		"region":                setRegion,
		"endpoint-url":          setEndpoint,
		"expected-bucket-owner": func(o *BucketOptions, v string) error { o.S3.ExpectedBucketOwner = v; return nil },
		"uid":                   func(o *BucketOptions, v string) (err error) { o.UID, err = parseID(v); return err },
		"gid":                   func(o *BucketOptions, v string) (err error) { o.GID, err = parseID(v); return err },
		"file-mode":             func(o *BucketOptions, v string) (err error) { o.FileMode, err = parseMode(v); return err },
		"dir-mode":              func(o *BucketOptions, v string) (err error) { o.DirMode, err = parseMode(v); return err },
		"metadata-ttl":          func(o *BucketOptions, v string) (err error) { o.MetadataTTL, err = parseTTL(v); return err },
	}
	switches = map[string]func(*BucketOptions){
		"read-only":       func(*BucketOptions) {}, // every mount is
		"ro":              func(*BucketOptions) {},
		"allow-empty":     func(o *BucketOptions) { o.AllowEmpty = true },
		"allow-other":     func(*BucketOptions) {}, // a pod's user is never ours, so it always holds
		"requester-pays":  func(o *BucketOptions) { o.S3.RequesterPays = true },
		"no-sign-request": func(o *BucketOptions) { o.S3.Anonymous = true },
		// A volume's style replaces the driver's.
		"force-path-style":      func(o *BucketOptions) { o.S3.PathStyle, o.S3.VirtualHostStyle = true, false },
		"virtual-host-style":    func(o *BucketOptions) { o.S3.PathStyle, o.S3.VirtualHostStyle = false, true },
		"transfer-acceleration": func(o *BucketOptions) { o.S3.Accelerate = true },
		"dual-stack":            func(o *BucketOptions) { o.S3.DualStack = true },
		"fips":                  func(o *BucketOptions) { o.S3.FIPS = true },
	}
	// writing are options of other drivers that ask for what this one does not do. A volume that needs them must fail to
	// mount, not to write.
	writing = []string{"allow-delete", "allow-overwrite", "incremental-upload", "rw"}
)

func setPrefix(o *BucketOptions, v string) error   { o.Prefix = v; return nil }
func setRegion(o *BucketOptions, v string) error   { o.S3.Region = v; return nil }
func setEndpoint(o *BucketOptions, v string) error { o.S3.Endpoint = v; return nil }

func parseID(v string) (int, error) {
	id, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is no user or group id: use a number from 0 to %d", v, 1<<31-1)
	}
	return int(id), nil
}

func parseMode(v string) (iofs.FileMode, error) {
	mode, err := strconv.ParseUint(v, 8, 32)
	if err != nil || mode == 0 || mode&^0o777 != 0 {
		return 0, fmt.Errorf("%q are no permissions: use an octal number from 1 to 777", v)
	}
	return iofs.FileMode(mode), nil //nolint:gosec // at most 0777
}

// parseTTL parses a number of seconds, or a duration with its unit. 0 is "never", as everywhere a person writes it.
func parseTTL(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if err != nil {
		var seconds uint64
		if seconds, err = strconv.ParseUint(v, 10, 31); err == nil {
			d = time.Duration(seconds) * time.Second //nolint:gosec // at most 2^31
		}
	}
	switch {
	case err != nil || d < 0:
		return 0, fmt.Errorf("%q is no time: use seconds (60) or a duration (5m), or 0 to ask every time", v)
	case d == 0:
		return -1, nil
	}
	return d, nil
}

// parseVolume merges what a request says about a volume with the driver's defaults. secrets go into the S3 options and
// nowhere else; an error names keys of attributes and secrets, and never the value of a secret.
func parseVolume(defaults BucketOptions, context map[string]string, mountFlags []string, group string, secrets map[string]string) (volume, error) {
	o := defaults
	for _, key := range slices.Sorted(maps.Keys(context)) {
		// Kubernetes adds its own about the pod and the provisioner.
		if strings.Contains(key, "k8s.io/") || strings.Contains(key, "kubernetes.io/") {
			continue
		}
		set := attributes[key]
		if set == nil {
			return volume{}, fmt.Errorf("volume attribute %q is unknown: use %s", key, known(attributes))
		}
		if err := set(&o, context[key]); err != nil {
			return volume{}, fmt.Errorf("volume attribute %q: %w", key, err)
		}
	}
	if o.Bucket == "" {
		return volume{}, fmt.Errorf("volume attribute %q is missing: name the bucket", "bucketName")
	}
	if group != "" {
		gid, err := parseID(group)
		if err != nil {
			return volume{}, fmt.Errorf("volume mount group: %w", err)
		}
		o.GID, o.FileMode, o.DirMode = gid, 0o440, 0o550 // for the group, as fsGroup means it
	}
	// Before the options: one that asks for unsigned requests contradicts a secret, and is refused.
	if err := parseSecrets(&o.S3, secrets); err != nil {
		return volume{}, err
	}
	for _, f := range mountFlags {
		if err := parseFlag(&o, f); err != nil {
			return volume{}, err
		}
	}
	if err := o.Validate(); err != nil {
		return volume{}, err
	}
	return volume{bucket: o}, nil
}

// parseFlag applies one mount option: "name", "name=value" or "name value", with or without leading "--".
func parseFlag(o *BucketOptions, flag string) error {
	name, value, hasValue := flag, "", false
	if i := strings.IndexAny(flag, "= "); i >= 0 {
		name, value, hasValue = flag[:i], strings.TrimSpace(flag[i+1:]), true
	}
	name = strings.TrimPrefix(strings.TrimSpace(name), "--")
	set, turn := flags[name], switches[name]
	switch {
	case slices.Contains(writing, name):
		return fmt.Errorf("mount option %q: this driver mounts read-only; remove the option", name)
	case set == nil && turn == nil:
		return fmt.Errorf("mount option %q is unknown: use %s, %s", name, known(flags), known(switches))
	case turn != nil && hasValue:
		return fmt.Errorf("mount option %q takes no value: remove %q", name, value)
	case turn != nil:
		turn(o)
		return nil
	case value == "":
		return fmt.Errorf("mount option %q needs a value: write %s=VALUE", name, name)
	}
	if err := set(o, value); err != nil {
		return fmt.Errorf("mount option %q: %w", name, err)
	}
	return nil
}

// parseSecrets applies the secret that nodePublishSecretRef names. It replaces the driver's own credentials as a whole.
func parseSecrets(o *S3Options, secrets map[string]string) error {
	if len(secrets) == 0 {
		return nil
	}
	known := []string{"key_id", "access_key", "session_token"}
	for _, key := range slices.Sorted(maps.Keys(secrets)) {
		if !slices.Contains(known, key) {
			return fmt.Errorf("secret key %q is unknown: use %s", key, strings.Join(known, ", "))
		}
	}
	for _, key := range known {
		// The most frequent mistake: a file or an echo with a line break at its end, which a store reports as a wrong key.
		if flaw := s3.KeyFlaw(secrets[key]); secrets[key] != "" && flaw != "" {
			return fmt.Errorf("secret key %q %s", key, flaw)
		}
	}
	o.Profile, o.Anonymous = "", false
	o.AccessKeyID, o.SecretAccessKey, o.SessionToken = secrets["key_id"], secrets["access_key"], secrets["session_token"]
	if o.AccessKeyID == "" || o.SecretAccessKey == "" {
		return fmt.Errorf("secret: give both %q and %q", "key_id", "access_key")
	}
	return nil
}

// known lists names for a message.
func known[V any](m map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}
