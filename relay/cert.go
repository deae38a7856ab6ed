package relay

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"ginnel/internal/key"
)

// This file is the server's side of TLS (1.3, 1.5): where certificates come from, and the one that
// is added to them.

const (
	metaCertValidity   = 30 * 24 * time.Hour // before and after the server's start; nobody checks
	selfSignedValidity = 10 * 365 * 24 * time.Hour
	certCheckInterval  = 10 * time.Second
)

var errNoServerCertificate = errors.New("relay: no certificate was configured")

// metaCert is the DER form of the certificate that tells clients the server's key inside the TLS
// handshake (1.5).
type metaCert []byte

func newMetaCert(server key.NodePublic, now time.Time) metaCert {
	pub, priv, err := ed25519.GenerateKey(nil) // thrown away: nothing is ever signed with it again
	if err != nil {
		panic("relay: internal error: " + err.Error())
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(protocolVersion),
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

// TLSConfig returns the TLS settings of a relay: the certificates are those of base, its
// GetCertificate or Certificates, each with the certificate added that spares clients a round trip
// (1.5). HTTP/2 is not offered: it cannot carry DERP.
func (s *Server) TLSConfig(base *tls.Config) *tls.Config {
	conf := base.Clone()
	conf.Certificates = nil
	conf.GetCertificate = (&metaAppender{base: base, meta: s.meta}).certificate
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
	conf.SessionTicketsDisabled = true // clients do not resume (1.3)
	conf.DynamicRecordSizingDisabled = true
	conf.NextProtos = []string{"http/1.1"}
	if slices.Contains(base.NextProtos, acme.ALPNProto) {
		conf.NextProtos = append(conf.NextProtos, acme.ALPNProto)
	}
	return conf
}

// metaAppender adds the meta certificate to the chains that base yields, and remembers the last
// result, which is usually the only one.
type metaAppender struct {
	base *tls.Config
	meta metaCert
	last atomic.Pointer[appended]
}

type appended struct{ from, to *tls.Certificate }

func (m *metaAppender) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert, err := m.choose(hello)
	if err != nil || slices.Contains(hello.SupportedProtos, acme.ALPNProto) {
		return cert, err
	}
	if last := m.last.Load(); last != nil && last.from == cert {
		return last.to, nil
	}
	to := *cert
	to.Certificate = append(slices.Clone(cert.Certificate), m.meta)
	m.last.Store(&appended{cert, &to})
	return &to, nil
}

func (m *metaAppender) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if m.base.GetCertificate != nil {
		if cert, err := m.base.GetCertificate(hello); cert != nil || err != nil {
			return cert, err
		}
	}
	if len(m.base.Certificates) == 0 {
		return nil, errNoServerCertificate
	}
	for i := range m.base.Certificates {
		if cert := &m.base.Certificates[i]; hello.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	return &m.base.Certificates[0], nil
}

// FileTLS returns a base for [Server.TLSConfig] with a certificate chain and its key from PEM
// files. They are read again when they change, until Close; should that fail the old certificate
// stays, and the log says so.
func (s *Server) FileTLS(certFile, keyFile string) (*tls.Config, error) {
	f := &certFiles{s: s, certFile: certFile, keyFile: keyFile, againc: make(chan struct{}, 1)}
	if err := f.load(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, net.ErrClosed
	}
	s.certs = append(s.certs, f)
	s.wg.Go(f.watch)
	return &tls.Config{GetCertificate: f.certificate}, nil
}

// ReloadCertificates has the files of [Server.FileTLS] read at once that have changed.
func (s *Server) ReloadCertificates() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.certs {
		select {
		case f.againc <- struct{}{}:
		default: // about to be
		}
	}
}

// certFiles is a certificate in two files.
type certFiles struct {
	s                 *Server
	certFile, keyFile string
	cert              atomic.Pointer[tls.Certificate]
	stamp             [2]fileStamp  // of the files that cert was read from; of the goroutine that loads
	againc            chan struct{} // has room for one: they are to be looked at now
}

// fileStamp tells whether a file has changed.
type fileStamp struct {
	modified time.Time
	size     int64
}

// watch looks after the files until the server ends. Handshakes do not wait for it, however long a
// disk takes.
func (f *certFiles) watch() {
	tick := time.NewTicker(certCheckInterval)
	defer tick.Stop()
	for {
		select {
		case <-f.s.stopc:
			return
		case <-tick.C:
		case <-f.againc:
		}
		if err := f.reload(); err != nil {
			f.s.log.Warn("certificate files cannot be used, the old certificate stays", "err", err)
		}
	}
}

func (f *certFiles) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return f.cert.Load(), nil
}

// load reads the files if they have changed.
func (f *certFiles) load() error {
	var stamp [2]fileStamp
	for i, path := range []string{f.certFile, f.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("reading the certificate: %w", err)
		}
		stamp[i] = fileStamp{info.ModTime(), info.Size()}
	}
	if f.cert.Load() != nil && stamp == f.stamp {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
	if err != nil {
		return fmt.Errorf("reading the certificate from %s and %s: %w", f.certFile, f.keyFile, err)
	}
	f.cert.Store(&cert)
	f.stamp = stamp
	return nil
}

// ACME returns a certificate manager for the hosts that keeps what it gets in dir. Its TLSConfig is
// a base for [Server.TLSConfig]; its HTTPHandler, around [RedirectHandler], belongs on port 80.
func ACME(dir, email string, hosts ...string) *autocert.Manager {
	return &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(dir),
		HostPolicy: autocert.HostWhitelist(hosts...),
		Email:      email,
	}
}

// SelfSignedTLS returns a base for [Server.TLSConfig] with a self-signed certificate for the hosts,
// names or IP addresses, and the pin by which clients trust it, the value for Node.CertName.
// Certificate and key are kept in dir, so that the pin stays; one that cannot be used, or is not
// for these hosts, is an error and stays as it is.
func SelfSignedTLS(dir string, hosts ...string) (conf *tls.Config, pin string, err error) {
	path := filepath.Join(dir, "self-signed.pem") // key and certificate in one file: they only make sense together
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := writeSelfSigned(path, hosts); err != nil {
			return nil, "", fmt.Errorf("making a self-signed certificate: %w", err)
		}
	}
	cert, err := tls.LoadX509KeyPair(path, path)
	if err != nil {
		return nil, "", fmt.Errorf("reading the self-signed certificate from %s: %w", path, err)
	}
	for _, h := range hosts {
		if err := cert.Leaf.VerifyHostname(h); err != nil {
			return nil, "", fmt.Errorf("using the self-signed certificate in %s, which was made for another name (use that one, or remove the file for a new certificate with a new pin): %w", path, err)
		}
	}
	if time.Now().After(cert.Leaf.NotAfter) {
		return nil, "", fmt.Errorf("using the self-signed certificate in %s: it expired on %s; remove the file for a new certificate with a new pin",
			path, cert.Leaf.NotAfter.Format(time.DateOnly))
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}, CertPin(cert.Leaf), nil
}

func writeSelfSigned(path string, hosts []string) error {
	if len(hosts) == 0 {
		return errors.New("no host was named")
	}
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{CommonName: hosts[0]},
		NotBefore:             now.Add(-24 * time.Hour), // for clients whose clocks are behind
		NotAfter:              now.Add(selfSignedValidity),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, priv.Public(), priv)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	return writeSecret(path, out.Bytes())
}
