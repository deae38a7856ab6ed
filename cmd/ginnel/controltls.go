package main

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	relayserver "ginnel/relay/server"
)

// tlsSettings are nil for a port without TLS.
type tlsSettings = *tls.Config

// certificates makes or finds the self-signed certificate, if that is what is used, and its pin.
// Its directory has the name of the host: a server that moves needs another, and one that comes
// back has its old pin.
func (s *controlService) certificates() (tlsSettings, error) {
	if s.f.how != tlsSelfSigned && s.f.how != tlsForRelay {
		return nil, nil
	}
	host := s.site.Hostname()
	dir := filepath.Join(s.dir, "certs", strings.ReplaceAll(host, ":", "_"))
	conf, pin, err := relayserver.SelfSignedTLS(dir, host)
	if err != nil {
		return nil, err
	}
	s.pin = pin
	if s.f.how == tlsForRelay {
		return conf, nil
	}
	path := filepath.Join(dir, "certificate.pem")
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: conf.Certificates[0].Certificate[0]})
	if err := os.WriteFile(path, public, 0o644); err != nil {
		return nil, fmt.Errorf("writing the certificate for nodes: %w", err)
	}
	s.log.Warn("the certificate is self-signed: nodes need it as --ca-file, stock clients in their system's store", "file", path)
	return conf, nil
}

// tlsConfig returns how the port speaks TLS; selfSigned is what certificates made.
func (s *controlService) tlsConfig(selfSigned tlsSettings) (tlsSettings, error) {
	switch s.f.how {
	case tlsElsewhere:
		return nil, nil
	case tlsFiles:
		conf, err := s.relay.FileTLS(s.f.cert, s.f.key)
		if err != nil {
			return nil, usageError{err}
		}
		s.warnOfCertificate()
		return s.relay.TLSConfig(conf), nil
	case tlsACME:
		if port := portNumber(s.addr); port != 443 {
			s.log.Warn("Let's Encrypt asks on port 443, which has to lead here", "addr", s.addr)
		}
		m := relayserver.ACME(filepath.Join(s.dir, "acme"), s.f.acmeEmail, s.site.Hostname())
		return s.relay.TLSConfig(m.TLSConfig()), nil
	}
	return s.relay.TLSConfig(selfSigned), nil
}

// warnOfCertificate says what clients will not like about the certificate in the files.
func (s *controlService) warnOfCertificate() {
	cert, err := tls.LoadX509KeyPair(s.f.cert, s.f.key)
	if err != nil {
		return // it was good a moment ago
	}
	if now := time.Now(); now.After(cert.Leaf.NotAfter) || now.Before(cert.Leaf.NotBefore) {
		s.log.Warn("the certificate is not valid now; nodes will refuse it", "file", s.f.cert,
			"not_before", cert.Leaf.NotBefore, "not_after", cert.Leaf.NotAfter)
	}
	if err := cert.Leaf.VerifyHostname(s.site.Hostname()); err != nil {
		s.log.Warn("the certificate is not for the host of --url; nodes will refuse it", "file", s.f.cert, "err", err)
	}
}
