package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/printable"
)

// Credential is a login for a registry. The zero Credential is anonymous. Every
// way to print it (fmt, JSON, slog) shows the user name and no secret.
type Credential struct {
	Username, Password string
	// IdentityToken is an OAuth2 refresh token, in place of the password.
	IdentityToken string
	// RegistryToken is sent unchanged as a bearer token.
	RegistryToken string
}

// String names the user and no secret.
func (c Credential) String() string {
	if c == (Credential{}) {
		return "anonymous"
	}
	return "credential of " + cmp.Or(c.Username, "a token")
}

// Format implements [fmt.Formatter]: every verb prints String, because verbs
// such as %d would otherwise print the fields.
func (c Credential) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, c.String()) }

// MarshalJSON writes String as a JSON string.
func (c Credential) MarshalJSON() ([]byte, error) { return json.Marshal(c.String()) }

// LogValue returns String, for log/slog.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

const (
	// hubKey is the key of Docker Hub in the files of docker login.
	hubKey = "https://index.docker.io/v1/"
	// hubHost is the host in hubKey.
	hubHost = "index.docker.io"
	// maxAuthFile bounds a file of credentials. Real ones have some kilobytes.
	maxAuthFile = 8 << 20
	// helperTimeout bounds a credential helper. Slow ones ask a cloud's
	// metadata service and then its registry, which takes some seconds.
	helperTimeout = 20 * time.Second
	// maxHelper bounds the output of a helper that is kept.
	maxHelper = 1 << 20
	// maxQuoted bounds the text of a helper or server that an error quotes.
	maxQuoted = 200
)

// DockerCredentials returns the credential that docker login or podman login
// stored for a repository: in docker's config.json with its credential helpers,
// or in podman's auth.json. It reads the files at each call.
//
// The longest key that equals the repository or a path above it wins, down to
// the host (containers-auth.json(5)). A secret for another path of the host is
// never returned.
func DockerCredentials(ctx context.Context, host, repository string) (Credential, error) {
	files, err := authFiles()
	if err != nil {
		return Credential{}, err
	}
	for _, f := range files {
		cred, found, err := f.lookup(ctx, host, repository)
		if err != nil {
			return Credential{}, fmt.Errorf("credentials for %s in %s: %w", host, f.path, err)
		}
		if found {
			return cred, nil
		}
	}
	return Credential{}, nil
}

// authFile holds the credentials in docker's config.json or podman's auth.json.
type authFile struct {
	Auths       map[string]authEntry `json:"auths"`
	Store       string               `json:"credsStore"`
	CredHelpers map[string]string    `json:"credHelpers"`

	path string // for messages
}

type authEntry struct {
	Auth          string `json:"auth"` // base64 of user:password
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// authFiles reads the existing files, in the order of their precedence.
func authFiles() ([]authFile, error) {
	var files []authFile
	if text := env("DOCKER_AUTH_CONFIG"); text != "" {
		f, err := parseAuths("$DOCKER_AUTH_CONFIG", []byte(text))
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	home, _ := os.UserHomeDir() // "" makes authPaths skip it
	for _, path := range authPaths(env, home) {
		data, err := readBounded(path, maxAuthFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
		f, err := parseAuths(path, data)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// env reads the environment, which names the credential files of docker and
// podman.
func env(name string) string { return os.Getenv(name) } //nolint:forbidigo // see above

// authPaths returns the files that may hold credentials, docker's before
// podman's. Of podman's files only the first that exists or is named in the
// environment counts.
func authPaths(env func(string) string, home string) []string {
	var paths []string
	switch dir := env("DOCKER_CONFIG"); {
	case dir != "":
		paths = append(paths, filepath.Join(dir, "config.json"))
	case home != "":
		paths = append(paths, filepath.Join(home, ".docker", "config.json"))
	}
	if file := env("REGISTRY_AUTH_FILE"); file != "" {
		return append(paths, file)
	}
	const name = "containers/auth.json"
	if dir := env("XDG_RUNTIME_DIR"); dir != "" {
		paths = append(paths, filepath.Join(dir, name))
	}
	switch dir := env("XDG_CONFIG_HOME"); {
	case dir != "":
		paths = append(paths, filepath.Join(dir, name))
	case home != "":
		paths = append(paths, filepath.Join(home, ".config", name))
	}
	return paths
}

func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.IsDir() {
		return nil, fs.ErrNotExist
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return data, err
}

func parseAuths(path string, data []byte) (authFile, error) {
	f := authFile{path: path}
	if len(bytes.TrimSpace(data)) == 0 {
		return f, nil
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return f, fmt.Errorf("credentials: %s is not valid JSON: %w", path, err)
	}
	return f, nil
}

// lookup returns the credential for a repository of a host, if the file has
// one. An entry for a path of the host takes precedence over a helper for the
// host.
func (f authFile) lookup(ctx context.Context, host, repository string) (Credential, bool, error) {
	host = hubName(host)
	if e, ok := f.byPath(host, repository); ok {
		c, err := e.credential()
		return c, err == nil, err
	}
	helper, ok := forHost(f.CredHelpers, host)
	if !ok {
		helper = f.Store
	}
	if helper != "" {
		server := host
		if host == hubHost {
			server = hubKey
		}
		c, found, err := runHelper(ctx, helper, server)
		if found || err != nil {
			return c, found, err
		}
	}
	e, ok := forHost(f.Auths, host)
	if !ok {
		return Credential{}, false, nil
	}
	c, err := e.credential()
	return c, err == nil, err
}

// byPath returns the entry with the longest path that contains the repository.
func (f authFile) byPath(host, repository string) (authEntry, bool) {
	var best authEntry
	longest := 0
	for key, e := range f.Auths {
		h, path := splitKey(key)
		if h == host && len(path) > longest && (path == repository || strings.HasPrefix(repository, path+"/")) {
			best, longest = e, len(path)
		}
	}
	return best, longest > 0
}

// forHost returns the value of a host. If several keys name the host, the key
// without a scheme wins, and otherwise the first in alphabetical order.
func forHost[T any](all map[string]T, host string) (value T, ok bool) {
	if v, ok := all[host]; ok {
		return v, true
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if h, path := splitKey(key); h == host && path == "" {
			return all[key], true
		}
	}
	return value, false
}

// splitKey splits a key of a file into host and path. Keys with a scheme come
// from docker login; their path is the version of an API.
func splitKey(key string) (host, path string) {
	rest, scheme := strings.CutPrefix(key, "https://")
	if !scheme {
		rest, scheme = strings.CutPrefix(key, "http://")
	}
	host, path, _ = strings.Cut(rest, "/")
	path = strings.Trim(path, "/")
	if scheme || path == "v1" || path == "v2" {
		path = ""
	}
	return hubName(host), path
}

// hubName maps the names of Docker Hub to one.
func hubName(host string) string {
	if host == hub || host == "registry-1.docker.io" {
		return hubHost
	}
	return host
}

func (e authEntry) credential() (Credential, error) {
	c := Credential{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth != "" {
		text, err := base64.StdEncoding.DecodeString(e.Auth)
		user, password, ok := strings.Cut(string(text), ":")
		if err != nil || !ok {
			return Credential{}, errors.New("auth is not the base64 form of user:password")
		}
		c.Username, c.Password = user, strings.Trim(password, "\x00")
	}
	return c, nil
}

// helperNotFound is the output of a helper without a credential.
const helperNotFound = "credentials not found in native keychain"

// runHelper runs a credential helper. It kills the helper and its children
// after helperTimeout, or when ctx ends.
func runHelper(ctx context.Context, name, server string) (Credential, bool, error) {
	program := "docker-credential-" + name
	fail := func(err error) (Credential, bool, error) {
		return Credential{}, false, fmt.Errorf("credential helper %s: %w", program, err)
	}
	if strings.ContainsAny(name, `/\`) {
		return fail(errors.New("its name must not be a path"))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, helperTimeout, fmt.Errorf("no answer within %v: it was killed", helperTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "get")
	out, complaint := capped{most: maxHelper}, capped{most: maxHelper}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(server), &out, &complaint
	cmd.WaitDelay = time.Second // for a child that keeps the pipes open
	ownGroup(cmd)
	err := cmd.Run()
	text := strings.TrimSpace(out.String())
	switch {
	case ctx.Err() != nil:
		return fail(context.Cause(ctx))
	case err != nil && text == helperNotFound:
		return Credential{}, false, nil
	case err != nil:
		// The protocol says that a helper prints its errors to standard output.
		said := cmp.Or(text, strings.TrimSpace(complaint.String()))
		if said != "" {
			err = fmt.Errorf("%w: %s", err, printable.Line(said, maxQuoted))
		}
		return fail(err)
	}
	var answer struct{ Username, Secret string }
	if json.Unmarshal([]byte(text), &answer) != nil { // the error could quote a secret
		return fail(errors.New("its answer is not JSON"))
	}
	if answer.Username == "<token>" {
		return Credential{IdentityToken: answer.Secret}, true, nil
	}
	return Credential{Username: answer.Username, Password: answer.Secret}, answer.Username != "" || answer.Secret != "", nil
}

// capped keeps the first bytes that are written to it.
type capped struct {
	buf  []byte
	most int
}

func (c *capped) Write(p []byte) (int, error) {
	c.buf = append(c.buf, p[:min(len(p), max(0, c.most-len(c.buf)))]...)
	return len(p), nil
}

func (c *capped) String() string { return string(c.buf) }
