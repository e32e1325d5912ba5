package snapshotter_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

// service is an image service that records its requests.
type service struct {
	cri.UnimplementedImageServiceServer
	pull func(ctx context.Context, r *cri.PullImageRequest) error
}

func (s *service) PullImage(ctx context.Context, r *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	return &cri.PullImageResponse{ImageRef: "sha256:x"}, s.pull(ctx, r)
}

func (s *service) ListImages(ctx context.Context, _ *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	return &cri.ListImagesResponse{Images: []*cri.Image{{Id: "one"}, {Id: "two"}}}, grpc.SetTrailer(ctx, metadata.Pairs("end", "yes"))
}

// front starts the image service in front of s and returns it with kubelet's
// connection.
func front(t *testing.T, s cri.ImageServiceServer) (*snapshotter.Images, *grpc.ClientConn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pi-") //nolint:usetesting // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	back := filepath.Join(dir, "back")
	l, err := net.Listen("unix", back)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	cri.RegisterImageServiceServer(server, s)
	served := make(chan error, 2)
	go func() { served <- server.Serve(l) }()
	elsewhere := func(context.Context, string, string) (soci.Credential, error) {
		return soci.Credential{Username: "file"}, nil
	}
	images, err := snapshotter.NewImages(back, elsewhere, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	path := filepath.Join(dir, "front")
	go func() { served <- snapshotter.ServeImages(ctx, images, path, func() { close(ready) }) }()
	<-ready
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		server.Stop()
		if err := errors.Join(conn.Close(), <-served, <-served, images.Close()); err != nil {
			t.Error(err)
		}
	})
	return images, conn
}

// TestPullSecrets checks that the secret of a pull is used for its host only
// while the pull runs, and that containerd receives the request unchanged.
func TestPullSecrets(t *testing.T) {
	basic := base64.StdEncoding.EncodeToString([]byte("ann:se:cret"))
	tests := []struct {
		name, image, host string
		auth              *cri.AuthConfig
		want              soci.Credential
	}{
		{"password", "reg.example/app:1", "reg.example", &cri.AuthConfig{Username: "ann", Password: "secret"}, soci.Credential{Username: "ann", Password: "secret"}},
		{"auth", "reg.example:5000/app", "reg.example:5000", &cri.AuthConfig{Auth: basic}, soci.Credential{Username: "ann", Password: "se:cret"}},
		{"identity token", "reg.example/app", "reg.example", &cri.AuthConfig{IdentityToken: "id"}, soci.Credential{IdentityToken: "id"}},
		{"registry token", "reg.example/app", "reg.example", &cri.AuthConfig{RegistryToken: "rt"}, soci.Credential{RegistryToken: "rt"}},
		{"hub", "alpine", "docker.io", &cri.AuthConfig{Username: "ann", ServerAddress: "https://index.docker.io/v1/"}, soci.Credential{Username: "ann"}},
		{"server", "reg.example/app", "reg.example", &cri.AuthConfig{Username: "ann", ServerAddress: "http://reg.example/v2"}, soci.Credential{Username: "ann"}},
		{"another server", "reg.example/app", "reg.example", &cri.AuthConfig{Username: "ann", ServerAddress: "https://other.example"}, soci.Credential{Username: "file"}},
		{"another host", "reg.example/app", "other.example", &cri.AuthConfig{Username: "ann"}, soci.Credential{Username: "file"}},
		{"another repository", "reg.example/app", "reg.example", &cri.AuthConfig{Username: "ann"}, soci.Credential{Username: "file"}},
		{"not base64", "reg.example/app", "reg.example", &cri.AuthConfig{Auth: "%"}, soci.Credential{Username: "file"}},
		{"no colon", "reg.example/app", "reg.example", &cri.AuthConfig{Auth: "YW5u"}, soci.Credential{Username: "file"}},
		{"none", "reg.example/app", "reg.example", nil, soci.Credential{Username: "file"}},
		{"not a reference", "Reg example", "reg.example", &cri.AuthConfig{Username: "ann"}, soci.Credential{Username: "file"}},
	}
	var images *snapshotter.Images
	var during soci.Credential
	var got *cri.PullImageRequest
	host, repository := "", ""
	s := &service{pull: func(ctx context.Context, r *cri.PullImageRequest) (err error) {
		got = r
		during, err = images.Credentials(ctx, host, repository)
		return err
	}}
	images, conn := front(t, s)
	for _, tt := range tests {
		host, repository = tt.host, "app"
		switch tt.name {
		case "hub":
			repository = "library/alpine"
		case "another repository":
			repository = "other/app"
		}
		r, err := cri.NewImageServiceClient(conn).PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: tt.image}, Auth: tt.auth})
		if err != nil || r.GetImageRef() != "sha256:x" {
			t.Fatalf("%s: %v, %v", tt.name, r, err)
		}
		if during != tt.want {
			t.Errorf("%s: %+v during the pull, want %+v", tt.name, during, tt.want)
		}
		if got.GetImage().GetImage() != tt.image || got.GetAuth().String() != tt.auth.String() {
			t.Errorf("%s: containerd was asked %v", tt.name, got)
		}
		if after, err := images.Credentials(t.Context(), tt.host, repository); err != nil || after.Username != "file" {
			t.Errorf("%s: after the pull %+v, %v", tt.name, after, err)
		}
	}
}

// TestImageServiceForwards checks that errors, trailers and other calls are
// forwarded, and that calls for pods are not.
func TestImageServiceForwards(t *testing.T) {
	s := &service{pull: func(context.Context, *cri.PullImageRequest) error {
		return status.Error(codes.ResourceExhausted, "disk full")
	}}
	_, conn := front(t, s)
	client := cri.NewImageServiceClient(conn)
	var trailer metadata.MD
	list, err := client.ListImages(t.Context(), &cri.ListImagesRequest{}, grpc.Trailer(&trailer))
	if err != nil || len(list.GetImages()) != 2 || len(trailer.Get("end")) != 1 {
		t.Errorf("%v, %v, trailer %v", list, err, trailer)
	}
	_, err = client.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "a"}, Auth: &cri.AuthConfig{Username: "ann"}})
	if status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != "disk full" {
		t.Error(err)
	}
	if _, err := client.ImageFsInfo(t.Context(), &cri.ImageFsInfoRequest{}); status.Code(err) != codes.Unimplemented {
		t.Error(err)
	}
	if _, err := cri.NewRuntimeServiceClient(conn).Version(t.Context(), &cri.VersionRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a call of the runtime service: %v", err)
	}
}
