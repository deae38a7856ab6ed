package programs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestServerIPv6 proves that one process of ours is server and relay enough where there is no IPv4,
// for tailscaled and for our node, that they find direct ways there, and that they outlive its
// restart.
func TestServerIPv6(t *testing.T) {
	t.Parallel()
	s := newOurServer(t, "http", hub6)
	s.ownRelay(t)
	s.found(t)
	m := newMesh(t, s, nil)
	alpha, beta, gamma := newGinnel(t, newHost6(t, "alpha")), newTailscaled(t, newHost6(t, "beta")), newGinnel(t, newHost6(t, "gamma"))
	m.join(alpha, beta, gamma)
	m.exchange()
	m.take("relay")
	s.process.kill()
	m.separated()
	s.start(t)
	m.recovered()
	m.take("relay")
	m.unlock(true)
	m.take("direct")
	m.exchange()
	checkEndpoints6(t, alpha, beta)
	m.unlock(false)
	m.recovered()
	m.take("relay")
}

// checkEndpoints6 makes sure that the direct path has the addresses of the hosts at both ends.
func checkEndpoints6(t *testing.T, alpha *ginnel, beta *tailscaled) {
	t.Helper()
	ours, err := alpha.status()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ours.Peers {
		if p.Name == "beta" && !strings.HasPrefix(p.Endpoint, "["+beta.host.addr.String()+"]:") {
			t.Errorf("ginnel status: beta is at %q, want %s", p.Endpoint, beta.host.addr)
		}
	}
	theirs, err := beta.status()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range theirs.Peer {
		if p.HostName == "alpha" && !strings.HasPrefix(p.CurAddr, "["+alpha.host.addr.String()+"]:") {
			t.Errorf("tailscale status: alpha is at %q, want %s", p.CurAddr, alpha.host.addr)
		}
	}
}

// TestServerHTTPS proves that tailscaled and our node join a server of ours that has an https URL,
// and use its relay, when they trust what vouches for its certificate, and that our node says so
// when it does not; and that they come back after the server's restart.
func TestServerHTTPS(t *testing.T) {
	t.Parallel()
	for name, found := range map[string]func(*testing.T) (s *ourServer, roots string){
		"certificate from files": func(t *testing.T) (*ourServer, string) {
			s := newOurServer(t, "https", hub)
			roots, cert, key := writeCertificates(t)
			s.args = append(s.args, "--cert", cert, "--key", key)
			return s, roots
		},
		"self-signed": func(t *testing.T) (*ourServer, string) {
			s := newOurServer(t, "https", hub)
			return s, filepath.Join(s.dir, "certs", hub.String(), "certificate.pem")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, roots := found(t)
			s.ownRelay(t)
			s.startTrusted(t, roots)
			m := newMesh(t, s, nil)

			h := newHost(t, "alpha")
			out, err := try(upLine(h, t.TempDir(), s.url(), m.key, "--timeout", "2s"))
			if err == nil || !strings.Contains(out, "certificate") {
				t.Errorf("without trust: %v\n%s", err, indent(out))
			}

			alpha, beta := newGinnel(t, h), newTailscaled(t, newHost(t, "beta"))
			alpha.args = []string{"--ca-file", roots}
			beta.env = []string{"SSL_CERT_FILE=" + roots}
			m.join(alpha, beta)
			m.exchange()
			m.take("relay")
			s.process.stop()
			m.separated()
			s.start(t)
			m.recovered()
			m.present()
			m.take("relay")
			m.unlock(true)
			m.take("direct")
		})
	}
}

// startTrusted starts a server for the first time that the certificates in a file vouch for, which
// may have to be made by the server first.
func (s *ourServer) startTrusted(t *testing.T, roots string) {
	t.Helper()
	s.process = start(t, "ginnel control", s.command(s.args...))
	s.roots = x509.NewCertPool()
	eventually(t, "there are roots of trust", func() bool {
		s.process.mustRun()
		b, err := os.ReadFile(roots)
		return err == nil && s.roots.AppendCertsFromPEM(b)
	})
	s.await(t)
	run(t, s.admin("users", "create", "ann"))
}

// writeCertificates makes an authority and a certificate of the hub, and the files with them.
func writeCertificates(t *testing.T) (roots, cert, key string) {
	t.Helper()
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	server := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Test server"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{hub.AsSlice()}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	theirs, ours := newKey(t), newKey(t)
	dir := t.TempDir()
	roots, cert, key = filepath.Join(dir, "roots.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(t, roots, "CERTIFICATE", sign(t, authority, authority, theirs, theirs))
	writePEM(t, cert, "CERTIFICATE", sign(t, server, authority, ours, theirs))
	b, err := x509.MarshalPKCS8PrivateKey(ours)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, key, "PRIVATE KEY", b)
	return roots, cert, key
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t *testing.T, cert, by *x509.Certificate, key, byKey *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := x509.CreateCertificate(rand.Reader, cert, by, key.Public(), byKey)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writePEM(t *testing.T, path, kind string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
		t.Fatal(err)
	}
}
