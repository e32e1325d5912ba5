package csi

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseVolume(t *testing.T) {
	vol, err := parseVolume(
		BucketOptions{S3: S3Options{Region: "eu-west-1", Profile: "driver"}},
		map[string]string{
			"bucketName": "models", "prefix": "a/", "csi.storage.k8s.io/pod.name": "x", "storage.kubernetes.io/csiProvisionerIdentity": "y",
		},
		[]string{"read-only", "prefix=b/", "--region us-east-2", "uid=1000", "file-mode=0440", "metadata-ttl 60", "force-path-style", "endpoint-url=http://127.0.0.1:9000"},
		"2000",
		map[string]string{"key_id": "id", "access_key": "secret", "session_token": "token"},
	)
	if err != nil {
		t.Fatal(err)
	}
	want := BucketOptions{
		Bucket: "models", Prefix: "b/", MetadataTTL: time.Minute, UID: 1000, GID: 2000, FileMode: 0o440, DirMode: 0o550,
		S3: S3Options{
			Region: "us-east-2", Endpoint: "http://127.0.0.1:9000", PathStyle: true,
			AccessKeyID: "id", SecretAccessKey: "secret", SessionToken: "token",
		},
	}
	if !reflect.DeepEqual(vol.bucket, want) {
		t.Errorf("got  %+v\nwant %+v", vol.bucket, want)
	}
}

func TestParseVolumeRefuses(t *testing.T) {
	bucket := map[string]string{"bucketName": "models"}
	for _, c := range []struct {
		what    string
		context map[string]string
		flags   []string
		group   string
		secrets map[string]string
		want    string
	}{
		{"no bucket", nil, nil, "", nil, `"bucketName" is missing`},
		{"bad attribute", map[string]string{"bucketname": "x"}, nil, "", nil, `"bucketname" is unknown: use bucketName, endpointURL, prefix, region`},
		{"bad bucket", map[string]string{"bucketName": "a b"}, nil, "", nil, "not a bucket name"},
		{"bad option", bucket, []string{"cache=/tmp"}, "", nil, `"cache" is unknown: use dir-mode`},
		{"writing", bucket, []string{"allow-delete"}, "", nil, "mounts read-only"},
		{"value missing", bucket, []string{"uid"}, "", nil, "write uid=VALUE"},
		{"value too many", bucket, []string{"ro=1"}, "", nil, "takes no value"},
		{"bad uid", bucket, []string{"uid=root"}, "", nil, `"root" is no user or group id`},
		{"bad mode", bucket, []string{"file-mode=4755"}, "", nil, "octal number from 1 to 777"},
		{"bad ttl", bucket, []string{"metadata-ttl=-1s"}, "", nil, "no time"},
		{"bad endpoint", bucket, []string{"endpoint-url=nonsense"}, "", nil, "endpoint"},
		{"bad group", bucket, nil, "staff", nil, "volume mount group"},
		{"bad secret key", bucket, nil, "", map[string]string{"password": "hush"}, `"password" is unknown`},
		{"bucket with a line break", map[string]string{"bucketName": "models\n"}, nil, "", nil, "white space at its beginning or end: remove it"},
		{"bucket as URI", map[string]string{"bucketName": "s3://models"}, nil, "", nil, `give the name alone, "models"`},
		{"bucket with path", map[string]string{"bucketName": "models/llama"}, nil, "", nil, `the bucket is "models", and "llama" is a prefix`},
		{"line break", bucket, nil, "", map[string]string{"key_id": "AKIA", "access_key": "hush\n"}, `"access_key" ends with a line break: remove it`},
		{"blank", bucket, nil, "", map[string]string{"key_id": "AKIA ", "access_key": "hush"}, `"key_id" has white space`},
		{"quotes", bucket, nil, "", map[string]string{"key_id": "AKIA", "access_key": `"hush"`}, `"access_key" is in quotes: remove them`},
		{"token", bucket, nil, "", map[string]string{"key_id": "A", "access_key": "B", "session_token": "hush\n"}, `"session_token" ends with a line break`},
		{"half a secret", bucket, nil, "", map[string]string{"key_id": "hush"}, "give both"},
	} {
		_, err := parseVolume(BucketOptions{}, c.context, c.flags, c.group, c.secrets)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
		}
	}
}

func TestParseTTL(t *testing.T) {
	for in, want := range map[string]time.Duration{"60": time.Minute, "5m": 5 * time.Minute, "0": -1, "0s": -1} {
		if got, err := parseTTL(in); got != want || err != nil {
			t.Errorf("parseTTL(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
}

// FuzzParseFlag: mount options come from whoever may write a PersistentVolume. None may panic, and one that is taken
// must leave options that are valid or refused by Validate.
func FuzzParseFlag(f *testing.F) {
	for _, s := range []string{"read-only", "--uid=1", "prefix a/b/", "file-mode=0644", "metadata-ttl=1h", "=", "-- ", "uid= 7 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, flag string) {
		o := BucketOptions{Bucket: "b"}
		if err := parseFlag(&o, flag); err != nil {
			if !reflect.DeepEqual(o, BucketOptions{Bucket: "b"}) && !strings.Contains(err.Error(), "mount option") {
				t.Fatalf("%q: %v", flag, err)
			}
			return
		}
		if err := o.Validate(); err != nil && strings.Contains(err.Error(), "owner") {
			t.Fatalf("%q was taken with an owner out of range: %v", flag, err)
		}
	})
}

func TestOptionsValidate(t *testing.T) {
	good := Options{Endpoint: "unix:///run/csi.sock", NodeID: "node"}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Options){
		"no endpoint":                  func(o *Options) { o.Endpoint = "" },
		"use unix://":                  func(o *Options) { o.Endpoint = "tcp://127.0.0.1:1" },
		"at most 107":                  func(o *Options) { o.Endpoint = "unix:///" + strings.Repeat("x", 120) },
		"no node id":                   func(o *Options) { o.NodeID = "" },
		"at most 256":                  func(o *Options) { o.NodeID = strings.Repeat("x", 257) },
		"driver name":                  func(o *Options) { o.Name = "-x-" },
		"kubelet directory":            func(o *Options) { o.KubeletDir = "relative" },
		"state directory":              func(o *Options) { o.StateDir = "/a/../b" },
		"memory 5 bytes":               func(o *Options) { o.Memory = 5 },
		"at most -1 volumes":           func(o *Options) { o.MaxVolumes = -1 },
		"half of a key pair":           func(o *Options) { o.S3.AccessKeyID = "x" },
		"endpoint \"nonsense\" is not": func(o *Options) { o.S3.Endpoint = "nonsense" },
	} {
		o := good
		change(&o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
