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

	"ginnel/key"
)

// This file makes and reads the certificate that carries a server's DERP key inside the TLS
// handshake (1.5).

const (
	// metaCertPrefix begins the common name of that certificate; the key follows in hex.
	metaCertPrefix = "derpkey"
	// metaCertValidity is how long it is valid before and after it was made. Clients do not check.
	metaCertValidity = 30 * 24 * time.Hour
)

// NewMetaCert returns the certificate of a server in DER form.
func NewMetaCert(server key.NodePublic, now time.Time) []byte {
	pub, priv, err := ed25519.GenerateKey(nil) // the key is thrown away: it never signs anything else
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

// isVersion reports whether a serial number is a version of the protocol.
func isVersion(serial *big.Int) bool {
	return serial != nil && serial.Sign() > 0 && serial.BitLen() <= 8
}

// IsMetaCert reports whether the common name of a certificate marks it as one that carries a key.
func IsMetaCert(c *x509.Certificate) bool {
	return strings.HasPrefix(c.Subject.CommonName, metaCertPrefix)
}

// ParseMetaCert returns the server key that one of the certificates carries, and whether one does.
func ParseMetaCert(certs []*x509.Certificate) (key.NodePublic, bool) {
	for _, c := range certs {
		digits, ok := strings.CutPrefix(c.Subject.CommonName, metaCertPrefix)
		if !ok || len(digits) != 2*key.Size || !isVersion(c.SerialNumber) {
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
