package derp

import (
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"ginnel/relay/internal/relaytest"
)

func TestMetaCert(t *testing.T) {
	f := relaytest.LoadVectors(t)
	server := f.Public(t, "server")
	now := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
	c, err := x509.ParseCertificate(NewMetaCert(server, now))
	if err != nil {
		t.Fatal(err)
	}
	if want := string(f.Find(t, "meta_cert_common_name")); c.Subject.CommonName != want || c.Issuer.CommonName != want {
		t.Errorf("subject %q, issuer %q, want %q", c.Subject.CommonName, c.Issuer.CommonName, want)
	}
	if c.SerialNumber.Int64() != 2 || c.IsCA || !c.BasicConstraintsValid {
		t.Errorf("serial %v, CA %v, constraints %v", c.SerialNumber, c.IsCA, c.BasicConstraintsValid)
	}
	if !c.NotBefore.Equal(now.Add(-30*24*time.Hour)) || !c.NotAfter.Equal(now.Add(30*24*time.Hour)) {
		t.Errorf("valid from %v to %v", c.NotBefore, c.NotAfter)
	}
	if pub, ok := c.PublicKey.(ed25519.PublicKey); !ok || !ed25519.Verify(pub, c.RawTBSCertificate, c.Signature) {
		t.Error("not self-signed with Ed25519")
	}
	if k, ok := ParseMetaCert([]*x509.Certificate{{Subject: pkix.Name{CommonName: "leaf"}}, c}); !ok || k != server {
		t.Errorf("parsed as %v, %v", k, ok)
	}
	digits := hex.EncodeToString(server[:])
	for _, cn := range []string{"derpkey", "derpkey" + digits[1:], "derpkey" + digits + "0", "derpkeyg" + digits[1:],
		"derpkey" + strings.Repeat("0", 64), digits} {
		bad := *c
		bad.Subject.CommonName = cn
		if _, ok := ParseMetaCert([]*x509.Certificate{&bad}); ok {
			t.Errorf("accepted with common name %q", cn)
		}
	}
	upper := *c
	upper.Subject.CommonName = "derpkey" + strings.ToUpper(digits)
	if k, ok := ParseMetaCert([]*x509.Certificate{&upper}); !ok || k != server {
		t.Error("upper-case digits refused")
	}
}
