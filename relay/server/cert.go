package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"ginnel/relay"
)

// This file has the server's side of TLS: where its certificates come from, and how the certificate
// that carries its key is added to them (1.3, 1.5).

const (
	selfSignedValidity = 10 * 365 * 24 * time.Hour
	certCheckInterval  = 10 * time.Second
)

var errNoServerCertificate = errors.New("relay: no certificate was configured")

// TLSConfig returns the TLS settings of a relay. The certificates are those of base, from its
// GetCertificate or Certificates, each followed by the certificate that carries the server's key
// and saves clients a round trip (1.5). HTTP/2 is not offered, because it cannot carry DERP.
func (s *Server) TLSConfig(base *tls.Config) *tls.Config {
	conf := base.Clone()
	conf.Certificates = nil
	conf.GetCertificate = (&metaAppender{base: base, meta: s.meta}).certificate
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
	conf.SessionTicketsDisabled = true // clients do not resume sessions (1.3)
	conf.DynamicRecordSizingDisabled = true
	conf.NextProtos = []string{"http/1.1"}
	if slices.Contains(base.NextProtos, acme.ALPNProto) {
		conf.NextProtos = append(conf.NextProtos, acme.ALPNProto)
	}
	return conf
}

// metaAppender appends the certificate with the server's key to the chains of base. It caches the
// last result, which is usually the only one.
type metaAppender struct {
	base *tls.Config
	meta []byte // the certificate to add, in DER form
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
// files. The files are read again when they change, until Close. If they cannot be used then, the
// old certificate stays and the log says so.
func (s *Server) FileTLS(certFile, keyFile string) (*tls.Config, error) {
	f := &certFiles{s: s, certFile: certFile, keyFile: keyFile, reloadc: make(chan struct{}, 1)}
	if err := f.load(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, net.ErrClosed
	}
	s.running.certs = append(s.running.certs, f)
	s.wg.Go(f.watch)
	return &tls.Config{GetCertificate: f.certificate}, nil
}

// ReloadCertificates has the files of [Server.FileTLS] checked at once, and read if they have
// changed.
func (s *Server) ReloadCertificates() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.running.certs {
		select {
		case f.reloadc <- struct{}{}:
		default: // a check is about to start
		}
	}
}

// certFiles is a certificate and its key in two files.
type certFiles struct {
	s                 *Server
	certFile, keyFile string
	cert              atomic.Pointer[tls.Certificate]
	stamps            [2]fileStamp  // of the files that cert was read from; owned by the loading goroutine
	reloadc           chan struct{} // has an item when the files are to be checked now; capacity 1
}

// fileStamp shows whether a file has changed.
type fileStamp struct {
	modified time.Time
	size     int64
}

// watch checks the files until the server ends. Handshakes never wait for the disk.
func (f *certFiles) watch() {
	tick := time.NewTicker(certCheckInterval)
	defer tick.Stop()
	for {
		select {
		case <-f.s.ctx.Done():
			return
		case <-tick.C:
		case <-f.reloadc:
		}
		if err := f.reload(); err != nil {
			f.s.log.Warn("certificate files not reloaded, the old certificate stays", "err", err)
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
	if f.cert.Load() != nil && stamp == f.stamps {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
	if err != nil {
		return fmt.Errorf("reading the certificate from %s and %s: %w", f.certFile, f.keyFile, err)
	}
	f.cert.Store(&cert)
	f.stamps = stamp
	return nil
}

// ACME returns a certificate manager for the hosts that stores its certificates in dir. Its
// TLSConfig is a base for [Server.TLSConfig]. Its HTTPHandler, with [RedirectHandler] as the
// fallback, must serve port 80.
func ACME(dir, email string, hosts ...string) *autocert.Manager {
	return &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(dir),
		HostPolicy: autocert.HostWhitelist(hosts...),
		Email:      email,
	}
}

// SelfSignedTLS returns a base for [Server.TLSConfig] with a self-signed certificate for the hosts,
// which are names or IP addresses. pin is the value for [relay.Node] CertName by which clients
// trust it. Certificate and key are stored in dir, so that the pin stays the same. A stored
// certificate that cannot be used, or is for other hosts, is an error and is not changed.
func SelfSignedTLS(dir string, hosts ...string) (conf *tls.Config, pin string, err error) {
	path := filepath.Join(dir, "self-signed.pem") // key and certificate in one file, so that they always match
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
			return nil, "", fmt.Errorf("using the self-signed certificate in %s, which was made for another name "+
				"(use that one, or remove the file for a new certificate with a new pin): %w", path, err)
		}
	}
	if time.Now().After(cert.Leaf.NotAfter) {
		return nil, "", fmt.Errorf("using the self-signed certificate in %s: it expired on %s; "+
			"remove the file for a new certificate with a new pin", path, cert.Leaf.NotAfter.Format(time.DateOnly))
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}, relay.CertPin(cert.Leaf), nil
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
