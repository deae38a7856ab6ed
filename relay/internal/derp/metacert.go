package derp

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"strings"
	"time"

	"ginnel/internal/key"
)

// This file is the certificate by which a server tells its DERP key inside the TLS handshake (1.5).

const (
	// metaCertPrefix begins the common name of that certificate; the key follows in hex.
	metaCertPrefix = "derpkey"
	// metaCertValidity is how long it is valid before and after it was made. Clients do not check.
	metaCertValidity = 30 * 24 * time.Hour
)

// NewMetaCert returns the certificate of a server in DER form.
func NewMetaCert(server key.NodePublic, now time.Time) []byte {
	pub, priv, err := ed25519.GenerateKey(nil) // thrown away: nothing is ever signed with it again
	if err != nil {
		panic("relay: internal error: " + err.Error())
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(ProtocolVersion),
		Subject:               pkix.Name{CommonName: metaCertPrefix + hex.EncodeToString(server[:])},
		NotBefore:             now.Add(-metaCertValidity),
		NotAfter:              now.Add(metaCertValidity),
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, priv)
	if err != nil {
		panic("relay: internal error: " + err.Error())
	}
	return der
}

// IsMetaCert reports whether the common name of a certificate marks it as one that carries a key.
func IsMetaCert(c *x509.Certificate) bool {
	return strings.HasPrefix(c.Subject.CommonName, metaCertPrefix)
}

// ParseMetaCert returns the server key that the certificates carry, and whether they do (1.5).
func ParseMetaCert(certs []*x509.Certificate) (key.NodePublic, bool) {
	for _, c := range certs {
		digits, ok := strings.CutPrefix(c.Subject.CommonName, metaCertPrefix)
		if !ok || len(digits) != 2*key.Size || c.SerialNumber == nil || c.SerialNumber.Sign() <= 0 || c.SerialNumber.BitLen() > 8 {
			continue
		}
		raw, err := hex.DecodeString(digits)
		if err != nil {
			continue
		}
		k := key.NodePublic(raw)
		return k, !k.IsZero()
	}
	return key.NodePublic{}, false
}
