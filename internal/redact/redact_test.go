package redact

import (
	"io"
	"testing"
	"time"
)

type login struct {
	User, Password string
	Hosts          []string
	Port           int
	Wait           time.Duration
	Reader         io.Reader
	Done           func()
	Next           *login
	Proxy          struct{ Host string }
	hidden         string
}

func TestStruct(t *testing.T) {
	full := login{
		User: "al ice", Password: "hunter2", Hosts: []string{"a b"}, Port: 7, Wait: time.Second,
		Reader: io.LimitReader(nil, 1), Done: func() {}, Next: &login{Password: "hunter2"}, hidden: "x",
	}
	full.Proxy.Host = "p"
	for _, tt := range []struct {
		v    login
		want string
	}{
		{login{}, "{}"},
		{login{User: "alice"}, `{User:"alice"}`},
		{full, `{User:"al ice" Password:[redacted] Hosts:["a b"] Port:7 Wait:1s Reader:set Done:set Next:set Proxy:{Host:p}}`},
	} {
		if got := Struct(tt.v, "Password"); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

// A secret whose field was renamed must not be printed by mistake.
func TestStructRefusesUnknownField(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	_ = Struct(login{}, "Passwort")
}
