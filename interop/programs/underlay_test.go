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

// TestServerIPv6 proves that without IPv4, one process of ours serves tailscaled and our node as
// server and relay, that the nodes find direct paths, and that they reconnect after it restarts.
func TestServerIPv6(t *testing.T) {
	t.Parallel()
	s := newOurServer(t, "http", hub6)
	s.ownRelay(t)
	s.startFirst(t)
	m := newMesh(t, s, nil)
	alpha, beta, gamma := newGinnel(t, newHost6(t, "alpha")), newTailscaled(t, newHost6(t, "beta")),
		newGinnel(t, newHost6(t, "gamma"))
	m.join(alpha, beta, gamma)
	m.exchange()
	m.awaitPaths("relay")
	s.process.kill()
	m.separated()
	s.start(t)
	m.awaitRecovery()
	m.awaitPaths("relay")
	m.allowDirect()
	m.awaitPaths("direct")
	m.exchange()
	checkEndpoints6(t, alpha, beta)
	m.blockDirect()
	m.awaitRecovery()
	m.awaitPaths("relay")
}

// checkEndpoints6 checks that the direct path between alpha and beta uses their hosts' IPv6
// addresses.
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

// TestServerHTTPS proves that tailscaled and our node join our server with an https URL and use its
// relay if they trust its certificate, and reconnect after a restart. Our node reports a
// certificate that it does not trust.
func TestServerHTTPS(t *testing.T) {
	t.Parallel()
	for name, create := range map[string]func(*testing.T) (s *ourServer, roots string){
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
			s, roots := create(t)
			s.ownRelay(t)
			s.startTrusted(t, roots)
			m := newMesh(t, s, nil)

			h := newHost(t, "alpha")
			out, err := try(ginnelUp(h, t.TempDir(), s.url(), m.key, "--timeout", "2s"))
			if err == nil || !strings.Contains(out, "certificate") {
				t.Errorf("without trust: %v\n%s", err, indent(out))
			}

			alpha, beta := newGinnel(t, h), newTailscaled(t, newHost(t, "beta"))
			alpha.args = []string{"--ca-file", roots}
			beta.env = []string{"SSL_CERT_FILE=" + roots}
			m.join(alpha, beta)
			m.exchange()
			m.awaitPaths("relay")
			s.process.stop()
			m.separated()
			s.start(t)
			m.awaitRecovery()
			m.awaitConnected()
			m.awaitPaths("relay")
			m.allowDirect()
			m.awaitPaths("direct")
		})
	}
}

// startTrusted starts a server for the first time. Its root certificates are in the file roots,
// which the server may create.
func (s *ourServer) startTrusted(t *testing.T, roots string) {
	t.Helper()
	s.process = start(t, "ginnel control", s.command(s.args...))
	s.roots = x509.NewCertPool()
	eventually(t, "the file with root certificates exists", func() bool {
		s.process.mustRun()
		b, err := os.ReadFile(roots)
		return err == nil && s.roots.AppendCertsFromPEM(b)
	})
	s.await(t)
	run(t, s.admin("users", "create", "ann"))
}

// writeCertificates writes the files of a certificate authority and of the hub's certificate.
func writeCertificates(t *testing.T) (roots, cert, key string) {
	t.Helper()
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test authority"},
		NotAfter: time.Now().Add(time.Hour),
		IsCA:     true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	server := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Test server"},
		NotAfter:    time.Now().Add(time.Hour),
		IPAddresses: []net.IP{hub.AsSlice()}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
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
