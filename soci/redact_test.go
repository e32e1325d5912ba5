package soci_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/penstock/penstock/soci"
)

// TestCredentialRedaction prints a credential in every way that a log or an
// error message might, alone and inside another value.
func TestCredentialRedaction(t *testing.T) {
	cred := soci.Credential{Username: "alice", Password: "SECRET1", IdentityToken: "SECRET2", RegistryToken: "SECRET3"}
	type holder struct {
		Host string
		Cred soci.Credential
		Ref  *soci.Credential
	}
	values := []any{cred, &cred, []soci.Credential{cred}, holder{"example.org", cred, &cred}, map[string]soci.Credential{"k": cred}}
	for _, v := range values {
		var shown []string
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			shown = append(shown, fmt.Sprintf(verb, v))
		}
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("login", "cred", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("login", "cred", v)
		for _, s := range append(shown, string(data), log.String()) {
			if strings.Contains(s, "SECRET") || strings.Contains(s, fmt.Sprintf("%x", "SECRET")) {
				t.Errorf("%T shows a secret: %s", v, s)
			}
		}
	}
	if got, want := fmt.Sprintf("%+v", cred), "credential of alice"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
