package s3

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

// Objects encrypted with a customer key are read with the key of a file.
// Without the key, the error says that the object needs one.
func TestSSECustomerKeyFile(t *testing.T) {
	origin := start(t, testorigin.Options{})
	key := bytes.Repeat([]byte{0xa7}, 32)
	writer := connect(t, origin, Options{SSECustomerKey: key})
	if _, err := writer.Put(t.Context(), "data", "k", strings.NewReader("bytes"), PutOptions{}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	for _, text := range []string{string(key), base64.StdEncoding.EncodeToString(key), hex.EncodeToString(key) + "\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := connect(t, origin, Options{SSECustomerKeyFile: file})
		if _, err := c.Head(t.Context(), "data", "k"); err != nil {
			t.Error(err)
		}
		if got, _, err := get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5}); err != nil || string(got) != "bytes" {
			t.Errorf("%q, %v", got, err)
		}
	}
	c := connect(t, origin, Options{})
	_, err := c.Head(t.Context(), "data", "k")
	wantText(t, err, "perhaps the object is encrypted with a customer key (penstock-cast --sse-customer-key-file")
	_, _, err = get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5})
	wantFault(t, err, ranges.Permanent, "the object is encrypted with a customer key: give it by")
	for _, text := range []string{"", "hunter2", strings.Repeat("h", 33)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := New(t.Context(), Options{SSECustomerKeyFile: file})
		wantText(t, err, "has no key of 32 bytes: put them there as they are")
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v has the key", err)
		}
	}
	_, err = New(t.Context(), Options{SSECustomerKeyFile: file + ".none"})
	wantText(t, err, "s3: customer key: open ")
	_, err = New(t.Context(), Options{SSECustomerKeyFile: file, SSECustomerKey: key})
	wantText(t, err, "exclude each other")
	_, err = New(t.Context(), Options{SSECustomerKeyFile: file, SSE: "AES256"})
	wantText(t, err, "exclude each other")
}

// The error of a refusal names the missing right.
func TestErrorNamesMissingRight(t *testing.T) {
	for message, want := range map[string]string{
		"User: arn:aws:iam::1:user/u is not authorized to perform: s3:GetObject on resource: x":          "access denied: the identity lacks the right s3:GetObject (403",
		"User is not authorized to perform: kms:Decrypt on the resource associated with this ciphertext": "lacks the right kms:Decrypt on the key that the object is encrypted with (403",
		"Access Denied": "access denied: the credentials lack the permission, or the object does not exist",
	} {
		e := &Error{Op: opGet, Bucket: "b", Key: "k", Status: 403, Code: "AccessDenied", Message: message}
		wantText(t, e, want)
	}
}
