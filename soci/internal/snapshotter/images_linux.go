package snapshotter

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/registry"
)

// Images is a proxy between kubelet and the image service of containerd. It
// forwards every call unchanged, and keeps the pull secret of a PullImage call
// while the call runs. A snapshotter receives no secrets, so without this proxy
// containerd would have to fetch private images itself.
//
// It is made by [NewImages], must be closed after its server has ended, and is
// safe for concurrent use.
type Images struct {
	next   *grpc.ClientConn
	lookup func(ctx context.Context, host, repository string) (soci.Credential, error)
	log    *slog.Logger

	mu    sync.Mutex // guards pulls
	pulls []*pullSecret
}

// pullSecret is the credential of one running pull.
type pullSecret struct {
	host, repository string
	cred             soci.Credential
}

// NewImages returns the service in front of containerd's socket. It connects at
// the first call. lookup returns the credential of a repository for which no
// running pull has a secret; the default is docker's configuration. log may be
// nil.
func NewImages(containerd string, lookup func(ctx context.Context, host, repository string) (soci.Credential, error), log *slog.Logger) (*Images, error) {
	next, err := grpc.NewClient("unix://"+containerd, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("containerd's socket: %w", err)
	}
	if lookup == nil {
		lookup = func(ctx context.Context, host, repository string) (soci.Credential, error) {
			c, err := registry.DockerCredentials(ctx, host, repository)
			return soci.Credential(c), err
		}
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Images{next: next, lookup: lookup, log: log}, nil
}

// Close closes the connection to containerd.
func (s *Images) Close() error { return s.next.Close() }

// Credentials is the function for [soci.Options.Credentials]. It returns the secret of the latest
// running pull from the repository, or the result of the lookup. So a secret is
// used for other pods only if they pull from the same repository.
func (s *Images) Credentials(ctx context.Context, host, repository string) (soci.Credential, error) {
	s.mu.Lock()
	for _, p := range slices.Backward(s.pulls) {
		if p.host == host && p.repository == repository {
			s.mu.Unlock()
			return p.cred, nil
		}
	}
	s.mu.Unlock()
	return s.lookup(ctx, host, repository)
}

// Server returns the gRPC server of the service.
func (s *Images) Server() *grpc.Server {
	return grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(s.handle))
}

const (
	imageService = "/" + "runtime.v1.ImageService" + "/"
	pullImage    = imageService + "PullImage"
)

// handle forwards one call. It does not decode messages, so newer versions of
// kubelet and containerd can use fields that this program does not know.
func (s *Images) handle(_ any, in grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(in)
	if !ok || !strings.HasPrefix(method, imageService) {
		return status.Errorf(codes.Unimplemented, "%s: this socket serves only the image service of CRI: send other calls to containerd's socket", method)
	}
	ctx, cancel := context.WithCancel(in.Context())
	defer cancel()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	out, err := s.next.NewStream(ctx, desc, method, grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil {
		return err
	}
	// Each call of CRI has one request.
	var request rawMessage
	if err := in.RecvMsg(&request); err != nil {
		return err
	}
	if method == pullImage {
		forget := s.remember(request)
		defer forget()
	}
	if err := out.SendMsg(&request); err != nil && !errors.Is(err, io.EOF) { // RecvMsg returns the reason
		return err
	}
	if err := out.CloseSend(); err != nil {
		return err
	}
	return forwardAnswers(in, out)
}

// forwardAnswers forwards the answers of a call, one or a stream of them.
func forwardAnswers(in grpc.ServerStream, out grpc.ClientStream) error {
	defer func() { in.SetTrailer(out.Trailer()) }()
	header, err := out.Header()
	if err == nil {
		err = in.SendHeader(header)
	}
	for err == nil {
		var m rawMessage
		if err = out.RecvMsg(&m); err == nil {
			err = in.SendMsg(&m)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// remember keeps the secret of a pull until forget is called. It ignores
// requests without a secret and malformed ones, which containerd refuses.
func (s *Images) remember(request rawMessage) (forget func()) {
	nothing := func() {}
	var r cri.PullImageRequest
	if err := proto.Unmarshal(request, &r); err != nil || r.GetAuth() == nil {
		return nothing
	}
	ref, err := registry.ParseReference(r.GetImage().GetImage())
	if err != nil {
		return nothing
	}
	cred, err := credential(r.GetAuth(), ref.Host)
	if err != nil {
		s.log.Warn("unusable pull secret", "image", r.GetImage().GetImage(), "err", err)
		return nothing
	}
	if cred == (soci.Credential{}) {
		return nothing
	}
	p := &pullSecret{host: ref.Host, repository: ref.Repository, cred: cred}
	s.mu.Lock()
	s.pulls = append(s.pulls, p)
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pulls = slices.DeleteFunc(s.pulls, func(x *pullSecret) bool { return x == p })
	}
}

// credential reads a secret as containerd does. For the secret of another server
// it returns the zero Credential.
func credential(a *cri.AuthConfig, host string) (soci.Credential, error) {
	if server := a.GetServerAddress(); server != "" {
		server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
		if server, _, _ = strings.Cut(server, "/"); server != host && (host != "docker.io" || server != "index.docker.io") {
			return soci.Credential{}, nil
		}
	}
	switch {
	case a.GetUsername() != "":
		return soci.Credential{Username: a.GetUsername(), Password: a.GetPassword()}, nil
	case a.GetIdentityToken() != "":
		return soci.Credential{IdentityToken: a.GetIdentityToken()}, nil
	case a.GetAuth() != "":
		text, err := base64.StdEncoding.DecodeString(a.GetAuth())
		user, password, ok := strings.Cut(string(text), ":")
		if err != nil || !ok {
			return soci.Credential{}, errors.New("auth is not the base64 form of user:password")
		}
		return soci.Credential{Username: user, Password: strings.Trim(password, "\x00")}, nil
	}
	return soci.Credential{RegistryToken: a.GetRegistryToken()}, nil
}
