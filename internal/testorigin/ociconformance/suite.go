package ociconformance

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Config names the registry under test.
type Config struct {
	Host           string // host:port, plain HTTP
	User, Password string // anonymous if empty
	Prefix         string // of repository names; default "conformance"
	// Skip maps names of checks to the reason why they are not run.
	Skip map[string]string
}

// suite is one run; each check gets its own copy with its own t and repository.
type suite struct {
	*testing.T
	cfg    Config
	client *http.Client
	repo   string
}

type check struct {
	name string
	run  func(*suite)
}

// Run runs all checks.
func Run(t *testing.T, cfg Config) {
	t.Helper()
	if cfg.Prefix == "" {
		cfg.Prefix = "conformance"
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	used := map[string]bool{}
	n := 0
	for _, checks := range [][]check{ggcrChecks, containerdChecks} {
		for _, ck := range checks {
			used[ck.name] = true
			n++
			t.Run(ck.name, func(t *testing.T) {
				if why := cfg.Skip[ck.name]; why != "" {
					t.Skip("server differs: " + why)
				}
				ck.run(&suite{T: t, cfg: cfg, client: client, repo: fmt.Sprintf("%s/r%d", cfg.Prefix, n)})
			})
		}
	}
	for name := range cfg.Skip {
		if !used[name] {
			t.Errorf("Skip names a check that does not exist: %q", name)
		}
	}
}

func (s *suite) ok(err error, format string, args ...any) {
	s.Helper()
	if err != nil {
		s.Fatalf(format+": %v", append(args, err)...)
	}
}

func (s *suite) same(what string, got, want any) {
	s.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.Errorf("%s = %v, want %v", what, got, want)
	}
}

// ref returns a reference to this check's repository for go-containerregistry.
func (s *suite) ref(tag string) name.Tag {
	s.Helper()
	t, err := name.NewTag(s.cfg.Host+"/"+s.repo+":"+tag, name.Insecure)
	s.ok(err, "reference")
	return t
}

// options returns the options of go-containerregistry.
func (s *suite) options(more ...remote.Option) []remote.Option {
	opts := []remote.Option{remote.WithContext(s.Context()), remote.WithTransport(s.client.Transport)}
	if s.cfg.User != "" {
		opts = append(opts, remote.WithAuth(&authn.Basic{Username: s.cfg.User, Password: s.cfg.Password}))
	}
	return append(opts, more...)
}

// resolver returns a resolver of containerd.
func (s *suite) resolver() remotes.Resolver {
	auth := docker.NewDockerAuthorizer(
		docker.WithAuthClient(s.client),
		docker.WithAuthCreds(func(string) (string, string, error) { return s.cfg.User, s.cfg.Password, nil }),
	)
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(
			docker.WithClient(s.client), docker.WithPlainHTTP(docker.MatchAllHosts), docker.WithAuthorizer(auth),
		),
	})
}

func (s *suite) ctx() context.Context { return s.Context() }
