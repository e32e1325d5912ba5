package csi

import (
	"reflect"
	"strings"
	"testing"
)

// TestS3OptionsReachTheClient sets one field at a time and looks for it in the options of the client.
func TestS3OptionsReachTheClient(t *testing.T) {
	typ := reflect.TypeFor[S3Options]()
	for i := range typ.NumField() {
		o := S3Options{AccessKeyID: "id"} // the other parts of a key need it
		f := reflect.ValueOf(&o).Elem().Field(i)
		switch f.Kind() {
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Int64:
			f.SetInt(7)
		case reflect.String:
			f.SetString("other")
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"127.0.0.1"}))
		default:
			t.Fatalf("%s has a type that this test does not know: %s", typ.Field(i).Name, f.Type())
		}
		if reflect.DeepEqual(o.client(nil), S3Options{AccessKeyID: "id"}.client(nil)) {
			t.Errorf("S3Options.%s does not reach the client", typ.Field(i).Name)
		}
	}
}

// TestVolumeEndpointStyles: a volume's style replaces the driver's, and variants of Amazon's endpoints exclude another
// endpoint.
func TestVolumeEndpointStyles(t *testing.T) {
	for _, c := range []struct {
		driver S3Options
		flags  []string
		want   S3Options
		err    string
	}{
		{S3Options{}, []string{"virtual-host-style"}, S3Options{VirtualHostStyle: true}, ""},
		{S3Options{VirtualHostStyle: true}, []string{"force-path-style"}, S3Options{PathStyle: true}, ""},
		{S3Options{PathStyle: true}, []string{"--virtual-host-style"}, S3Options{VirtualHostStyle: true}, ""},
		{S3Options{}, []string{"transfer-acceleration", "dual-stack"}, S3Options{Accelerate: true, DualStack: true}, ""},
		{S3Options{}, []string{"fips", "dual-stack"}, S3Options{FIPS: true, DualStack: true}, ""},
		{S3Options{}, []string{"fips", "transfer-acceleration"}, S3Options{}, "accelerate has no FIPS endpoints"},
		{S3Options{}, []string{"fips", "endpoint-url=http://127.0.0.1:9000"}, S3Options{}, "leave out the endpoint"},
		{S3Options{DualStack: true}, []string{"endpoint-url=http://127.0.0.1:9000"}, S3Options{}, "leave out the endpoint"},
		{S3Options{}, []string{"transfer-acceleration", "force-path-style"}, S3Options{}, "leave out the endpoint and path style"},
	} {
		v, err := parseVolume(BucketOptions{S3: c.driver}, map[string]string{"bucketName": "models"}, c.flags, "", nil)
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%v over %+v: %v, want %q", c.flags, c.driver, err, c.err)
		case c.err == "" && (err != nil || !reflect.DeepEqual(v.bucket.S3, c.want)):
			t.Errorf("%v over %+v: %+v, %v, want %+v", c.flags, c.driver, v.bucket.S3, err, c.want)
		}
	}
}
