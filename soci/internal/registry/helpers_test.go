package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// selfSigned makes a certificate of its own authority, and its PEM.
func selfSigned(t *testing.T) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// closesAfterHello starts a TLS server that closes other connections without an
// answer.
func closesAfterHello(t *testing.T) (addr string) {
	t.Helper()
	cert, _ := selfSigned(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			first := make([]byte, 1)
			if n, _ := c.Read(first); n == 1 && first[0] == 22 { // a handshake record
				_ = tls.Server(prepended{c, first}, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake()
			}
			c.Close()
		}
	}()
	return l.Addr().String()
}

// prepended returns bytes that were read before.
type prepended struct {
	net.Conn
	first []byte
}

func (p prepended) Read(b []byte) (int, error) {
	if len(b) > 0 && p.first[0] != 0 {
		b[0] = p.first[0]
		p.first[0] = 0
		return 1, nil
	}
	return p.Conn.Read(b)
}

// withoutPlatform is an image whose config names neither system nor processor.
func withoutPlatform(t *testing.T, img v1.Image) v1.Image {
	t.Helper()
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Variant = "", "", ""
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}
