package relay

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"ginnel/relay/internal/derp"
)

// This file decides whether a client talks to the right relay (1.4).

var (
	errNoCertificate = errors.New("server sent no certificate")
	errPinCount      = errors.New("want exactly one certificate besides the one with the relay's key")
)

// verifier checks the certificates of one relay.
type verifier struct {
	sni       string // server name sent; empty for an IP address
	name      string // the certificate must be for this name or address; empty accepts any
	pin       string // lower-case hex SHA-256 of the only accepted certificate, in place of a chain
	skipChain bool   // accept certificates without a chain to a root: for tests
	roots     *x509.CertPool
	now       func() time.Time
}

// newVerifier returns the checks for a target. roots are trusted in addition to those of the
// system.
func newVerifier(t *target, roots *x509.CertPool) *verifier {
	v := &verifier{name: t.host, roots: roots, now: time.Now, skipChain: t.insecure}
	if _, err := netip.ParseAddr(t.host); err != nil {
		v.sni = t.host
	}
	pin, pinned := strings.CutPrefix(t.certName, pinPrefix)
	switch {
	case pinned:
		v.pin, v.name = pin, v.sni
	case t.certName != "":
		v.name = t.certName
		if t.insecure && t.certName == t.host {
			v.name = ""
		}
	case t.insecure:
		v.name = ""
	}
	return v
}

// config returns the TLS settings. Like the reference client it uses neither ALPN nor session
// resumption (1.3). Records have their full size of 16 KiB from the start.
func (v *verifier) config() *tls.Config {
	return &tls.Config{
		ServerName:                  v.sni,
		InsecureSkipVerify:          true, // VerifyConnection replaces the standard checks
		VerifyConnection:            v.verify,
		MinVersion:                  tls.VersionTLS12,
		DynamicRecordSizingDisabled: true,
	}
}

func (v *verifier) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errNoCertificate
	}
	if v.pin != "" {
		return v.verifyPin(cs.PeerCertificates)
	}
	if !v.skipChain {
		return v.verifyChain(cs.PeerCertificates)
	}
	if v.name != "" {
		return cs.PeerCertificates[0].VerifyHostname(v.name)
	}
	return nil
}

// verifyPin checks the pinned certificate. It must be the only one beside the one that carries the
// server's key.
func (v *verifier) verifyPin(certs []*x509.Certificate) error {
	var leaf *x509.Certificate
	for _, c := range certs {
		if derp.IsMetaCert(c) {
			continue
		}
		if leaf != nil {
			return errPinCount
		}
		leaf = c
	}
	if leaf == nil {
		return errPinCount
	}
	if got := CertPin(leaf); got != pinPrefix+v.pin {
		return fmt.Errorf("certificate is %s, want %s", got, pinPrefix+v.pin)
	}
	if now := v.now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return fmt.Errorf("pinned certificate is valid from %s to %s, now it is %s",
			leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if v.name != "" {
		return leaf.VerifyHostname(v.name)
	}
	return nil
}

// verifyChain tries the roots of the system, then those configured. If roots are configured, the
// error is theirs.
func (v *verifier) verifyChain(certs []*x509.Certificate) error {
	opts := x509.VerifyOptions{DNSName: v.name, CurrentTime: v.now(), Intermediates: x509.NewCertPool()}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := certs[0].Verify(opts)
	if err != nil && v.roots != nil {
		opts.Roots = v.roots
		_, err = certs[0].Verify(opts)
	}
	return err
}

// CertPin returns the value of [Node] CertName by which clients trust exactly this certificate
// (1.4).
func CertPin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return pinPrefix + hex.EncodeToString(sum[:])
}
