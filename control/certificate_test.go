package control

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"ginnel/key"
)

// The advice to use http:// is given if the port speaks only plain HTTP, or if the host is private.
// It is not given for a public host with a rejected certificate, which may be an attacker's.
func TestPlainHTTPIsAdvised(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(ServerKeys{PublicKey: key.NewMachinePrivate().Public()})
	}))
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	c, err := NewClient(ClientConfig{URL: srv.URL, MachineKey: key.NewMachinePrivate()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	unaccepted := &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
	for _, test := range []struct {
		name, host string
		err        error
		want       bool
	}{
		{"no TLS, public", "mesh.example.com", tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"},
			true},
		{"no TLS, private", "192.168.1.2", tls.RecordHeaderError{}, true},
		{"certificate, private", "192.168.1.2", unaccepted, true},
		{"certificate, loopback", "localhost", unaccepted, true},
		{"certificate, public", "mesh.example.com", unaccepted, false},
		{"certificate, public address", "203.0.113.1", unaccepted, false},
		{"cut off", "192.168.1.2", net.ErrClosed, false},
	} {
		err := c.tlsError(t.Context(), addr, test.host, new(tls.Config), test.err)
		if got := strings.Contains(err.Error(), "use http://"+addr); got != test.want {
			t.Errorf("%s: %v, want the advice to use http://: %v", test.name, err, test.want)
		}
		if _, ok := errors.AsType[*CertificateError](err); ok != (!test.want && test.err == unaccepted) {
			t.Errorf("%s: %T", test.name, err)
		}
	}
}
