package controlcmd

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ginnel/internal/cli"
	relayserver "ginnel/relay/server"
)

// tlsSettings are nil for a port without TLS.
type tlsSettings = *tls.Config

// certificates makes or loads the self-signed certificate, if one is used, and sets its pin. The
// directory has the name of the host: a server under another name needs another certificate, and
// one that returns to its old name has its old pin.
func (s *controlService) certificates() (tlsSettings, error) {
	if s.options.how != tlsSelfSigned && s.options.how != tlsForRelay {
		return nil, nil
	}
	host := s.site.Hostname()
	dir := filepath.Join(s.dir, "certs", strings.ReplaceAll(host, ":", "_"))
	conf, pin, err := relayserver.SelfSignedTLS(dir, host)
	if err != nil {
		return nil, err
	}
	s.pin = pin
	if s.options.how == tlsForRelay {
		return conf, nil
	}
	path := filepath.Join(dir, "certificate.pem")
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: conf.Certificates[0].Certificate[0]})
	if err := os.WriteFile(path, public, 0o644); err != nil {
		return nil, fmt.Errorf("writing the certificate for nodes: %w", err)
	}
	s.log.Warn("the certificate is self-signed: nodes need it as --ca-file, stock clients in their system's store", "file",
		path)
	return conf, nil
}

// tlsConfig returns how the port speaks TLS; selfSigned is what certificates made.
func (s *controlService) tlsConfig(selfSigned tlsSettings) (tlsSettings, error) {
	switch s.options.how {
	case tlsElsewhere:
		return nil, nil
	case tlsFiles:
		return s.options.FileTLS(s.relay, s.log, "url", s.site.Hostname())
	case tlsACME:
		if port := cli.PortNumber(s.addr); port != 443 {
			s.log.Warn("Let's Encrypt asks on port 443, which has to lead here", "addr", s.addr)
		}
		m := relayserver.ACME(filepath.Join(s.dir, "acme"), s.options.ACMEEmail, s.site.Hostname())
		return s.relay.TLSConfig(m.TLSConfig()), nil
	}
	return s.relay.TLSConfig(selfSigned), nil
}
