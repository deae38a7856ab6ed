//go:build lab

package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ginnel/node"
	"ginnel/relay"
)

// A node does not use a relay that it cannot reach or trust. Its pages and its status give the
// reason, it keeps trying, and its proxy keeps working.
func TestRelaysThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	m := newMeshHosts(t, open, open)
	link(m.alpha.host, "wan", m.alpha.router, "inside")
	link(m.beta.host, "wan", m.beta.router, "inside")
	m.start()
	m.relayHost.startServices("no relay")
	cert, key := expiredCertificate(t, "192.0.2.2")
	expired := startRelay(m.relayHost, "192.0.2.2", "--listen", ":8444", "--stun", "none", "--cert", cert.path,
		"--key", key)
	for _, c := range []struct {
		name string
		edit func(n *relay.Node)
		want string
	}{
		{"closed port", func(n *relay.Node) { n.DERPPort = 8499 }, "connection refused"},
		{"no such host", func(n *relay.Node) { n.HostName = "192.0.2.77" }, "192.0.2.77"},
		{"no such name", func(n *relay.Node) { n.HostName = "relay.example" }, "relay.example"},
		{"wrong pin", func(n *relay.Node) { n.CertName = "sha256-raw:" + strings.Repeat("ab", 32) }, "want sha256-raw:abab"},
		{"no pin", func(n *relay.Node) { n.CertName = "" }, "certificate signed by unknown authority"},
		{"expired", func(n *relay.Node) { n.DERPPort, n.CertName = expired.node.DERPPort, cert.pin },
			"pinned certificate is valid from"},
		{"not a relay", func(n *relay.Node) { n.DERPPort = 80 }, "does not look like a TLS handshake"},
	} {
		r := m.relay.relays()
		c.edit(r.Regions[relayRegion].Nodes[0])
		m.alpha.order.Relays = r
		m.alpha.tell()
		eventually(t, c.name+": the status gives the reason", 12*time.Second,
			func() bool { return strings.Contains(m.alpha.status().Reason, c.want) })
		if status, body := m.alpha.get("/readyz"); status != 503 || !strings.Contains(string(body), c.want) {
			t.Errorf("%s: /readyz is %d %q, want 503 and %q", c.name, status, body, c.want)
		}
		s := m.alpha.status()
		if s.State != node.StateStarting || len(s.Health) != 1 || !strings.Contains(s.Health[0].Text, c.want) {
			t.Errorf("%s: status is %+v", c.name, s)
		}
		if m.beta.status().State != node.StateRunning {
			t.Errorf("%s: the other node is not running", c.name)
		}
	}
	m.alpha.order.Relays = m.relay.relays()
	m.alpha.tell()
	m.alpha.awaitRelay(10 * time.Second)
	m.alpha.bulk(meshRate).finish()
}

// certificate is a certificate file and the pin by which clients accept it.
type certificate struct{ path, pin string }

// expiredCertificate writes a certificate for addr that expired an hour ago, and its private key.
func expiredCertificate(t *testing.T, addr string) (cert certificate, keyPath string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: addr},
		NotBefore:    time.Now().Add(-48 * time.Hour),
		NotAfter:     time.Now().Add(-time.Hour),
		IPAddresses:  []net.IP{net.ParseIP(addr)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	dir := newDir(t, "cert")
	write := func(name, kind string, b []byte) string {
		return writeFile(t, filepath.Join(dir, name), string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})))
	}
	return certificate{write("cert.pem", "CERTIFICATE", der), relay.CertPin(parsed)},
		write("key.pem", "PRIVATE KEY", keyDER)
}
