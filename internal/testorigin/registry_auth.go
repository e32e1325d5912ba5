package testorigin

import (
	"crypto/hmac"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// grant is the payload of a bearer token.
type grant struct {
	Serial uint64    `json:"serial"` // makes every token different
	Exp    time.Time `json:"exp"`
	Access []access  `json:"access"`
}

type access struct {
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

func (g grant) allows(repo string, action string) bool {
	for _, a := range g.Access {
		if a.Name == repo && (slices.Contains(a.Actions, action) || slices.Contains(a.Actions, "*")) {
			return true
		}
	}
	return false
}

// authorize checks the credentials of a registry request. If they are not
// sufficient, it answers and returns false.
func (rq *request) authorize(actions string) bool {
	ro := &rq.o.opts.Registry
	switch ro.Auth {
	case "basic":
		user, password, ok := rq.r.BasicAuth()
		if ok && user == ro.User && password == ro.Password {
			return true
		}
		rq.w.Header().Set("WWW-Authenticate", `Basic realm="penstock"`)
		rq.registryFail(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return false
	case "token":
		return rq.authorizeToken(actions)
	}
	return true
}

func (rq *request) authorizeToken(actions string) bool {
	token, ok := strings.CutPrefix(rq.r.Header.Get("Authorization"), "Bearer ")
	scope := rq.scope(actions)
	if !ok {
		rq.challenge(scope)
		return false
	}
	g, err := rq.o.registry.parseGrant(token)
	if err != nil || rq.o.opts.Now().After(g.Exp) {
		rq.challenge(scope + `,error="invalid_token"`)
		return false
	}
	if rq.repo == "" {
		return true
	}
	for a := range strings.SplitSeq(actions, ",") {
		if !g.allows(rq.repo, a) {
			rq.challenge(scope + `,error="insufficient_scope"`)
			return false
		}
	}
	return true
}

// scope returns the scope parameter of a challenge.
func (rq *request) scope(actions string) string {
	if rq.repo == "" {
		return ""
	}
	return fmt.Sprintf(`scope="repository:%s:%s"`, rq.repo, actions)
}

// challenge answers 401 with the URL for tokens.
func (rq *request) challenge(params string) {
	if rq.o.opts.Registry.Auth == "token" {
		value := fmt.Sprintf(`Bearer realm="http://%s/token",service="penstock-origin"`, rq.r.Host)
		if params = strings.Trim(params, ","); params != "" {
			value += "," + params
		}
		rq.w.Header().Set("WWW-Authenticate", value)
	}
	rq.registryFail(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
}

// serveToken returns tokens for a GET with basic authorization or a POST of an
// OAuth2 form.
func (rq *request) serveToken() {
	ro := &rq.o.opts.Registry
	form := rq.q
	user, password, given := rq.r.BasicAuth()
	if rq.r.Method == http.MethodPost {
		raw, err := rq.o.smallBody(rq)
		if err == nil {
			form, err = url.ParseQuery(string(raw))
		}
		if err != nil {
			rq.registryFail(http.StatusBadRequest, "UNSUPPORTED", "malformed form")
			return
		}
		switch form.Get("grant_type") {
		case "password":
			user, password, given = form.Get("username"), form.Get("password"), true
		case "refresh_token":
			user, password, given = ro.User, form.Get("refresh_token"), true // the password serves as refresh token
		default:
			rq.registryFail(http.StatusBadRequest, "UNSUPPORTED", "unknown grant_type")
			return
		}
	}
	known := given && user == ro.User && password == ro.Password
	if !known && (given || !ro.AnonymousPull) {
		rq.w.Header().Set("WWW-Authenticate", `Basic realm="penstock"`)
		rq.registryFail(http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
		return
	}
	now := rq.o.opts.Now()
	g := grant{Serial: rq.o.serial.Add(1), Exp: now.Add(ro.TokenTTL)}
	for _, s := range form["scope"] {
		for scope := range strings.FieldsSeq(s) {
			if a, ok := parseScope(scope); ok {
				if !known {
					a.Actions = slices.DeleteFunc(a.Actions, func(x string) bool { return x != "pull" })
				}
				g.Access = append(g.Access, a)
			}
		}
	}
	token := rq.o.registry.makeToken(g)
	seconds := max(1, int((ro.TokenTTL+time.Second-1)/time.Second))
	body, _ := json.Marshal(map[string]any{ // plain strings and numbers always marshal
		"token": token, "access_token": token, "expires_in": seconds, "issued_at": now.UTC().Format(time.RFC3339),
	})
	rq.write(http.StatusOK, "application/json", body)
}

// parseScope reads repository:NAME:ACTIONS; the name may contain colons (a host
// with a port).
func parseScope(s string) (access, bool) {
	rest, ok := strings.CutPrefix(s, "repository:")
	i := strings.LastIndexByte(rest, ':')
	if !ok || i < 1 {
		return access{}, false
	}
	return access{rest[:i], strings.Split(rest[i+1:], ",")}, true
}

func (g *registry) makeToken(gr grant) string {
	raw, _ := json.Marshal(gr) // a struct of strings, numbers and times always marshals
	payload := base64.RawURLEncoding.EncodeToString(raw)
	return payload + "." + base64.RawURLEncoding.EncodeToString(hmacSHA256(g.secret, payload))
}

func (g *registry) parseGrant(token string) (grant, error) {
	var gr grant
	payload, mac, _ := strings.Cut(token, ".")
	// The signatures are compared as text, because a decoder would ignore line
	// breaks and stray bits.
	want := base64.RawURLEncoding.EncodeToString(hmacSHA256(g.secret, payload))
	if !hmac.Equal([]byte(mac), []byte(want)) {
		return gr, errSigSyntax
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(payload)
	if err != nil {
		return gr, err
	}
	return gr, json.Unmarshal(raw, &gr)
}
