package s3stream

import (
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

// TestS3FieldsReachTheClient sets one field at a time and looks for it in the
// options of the client.
func TestS3FieldsReachTheClient(t *testing.T) {
	typ := reflect.TypeFor[S3]()
	for i := range typ.NumField() {
		s := S3{AccessKeyID: "id"} // the other parts of a key need it
		f := reflect.ValueOf(&s).Elem().Field(i)
		switch f.Interface().(type) {
		case *slog.Logger:
			f.Set(reflect.ValueOf(slog.New(slog.DiscardHandler)))
		case []string:
			f.Set(reflect.ValueOf([]string{"127.0.0.1"}))
		default:
			switch f.Kind() {
			case reflect.Bool:
				f.SetBool(true)
			case reflect.Int64:
				f.SetInt(7)
			case reflect.String:
				f.SetString("other")
			default:
				t.Fatalf("%s has a type that this test does not know: %s", typ.Field(i).Name, f.Type())
			}
		}
		if reflect.DeepEqual(s.client(), S3{AccessKeyID: "id"}.client()) {
			t.Errorf("S3.%s does not reach the client", typ.Field(i).Name)
		}
	}
}

func TestS3Validate(t *testing.T) {
	for _, ok := range []S3{
		{},
		{VirtualHostStyle: true, Endpoint: "https://s3.example.com"},
		{Accelerate: true, DualStack: true},
		{DualStack: true, FIPS: true, Region: "us-gov-west-1"},
		{AccessKeyID: "a", SecretAccessKey: "b", SessionToken: "c"},
	} {
		if err := ok.Validate(); err != nil {
			t.Errorf("%+v: %v", ok, err)
		}
	}
	for want, bad := range map[string]S3{
		"half of a key pair":                         {AccessKeyID: "a"},
		"session token without":                      {SessionToken: "a"},
		"path style and virtual-host style":          {PathStyle: true, VirtualHostStyle: true},
		"accelerate works with AWS endpoints":        {Accelerate: true, Endpoint: "http://127.0.0.1:9000"},
		"accelerate has no FIPS endpoints":           {Accelerate: true, FIPS: true},
		"dual stack and FIPS choose an AWS endpoint": {DualStack: true, Endpoint: "http://127.0.0.1:9000"},
		"anonymous access takes no profile":          {Anonymous: true, Profile: "p"},
		"12 digits":                                  {ExpectedBucketOwner: "me"},
	} {
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", bad, err, want)
		}
	}
}
