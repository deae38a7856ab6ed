package server

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/relay"
	"ginnel/relay/internal/relaytest"
)

func TestServerTLSConfig(t *testing.T) {
	s := newTestServer(t, Config{})
	ca := relaytest.NewCA(t)
	a, b := ca.Issue(time.Hour, "a.example"), ca.Issue(time.Hour, "b.example")
	conf := s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{a, b}, NextProtos: []string{"h2", "acme-tls/1"}})
	if conf.MinVersion != tls.VersionTLS12 || !conf.SessionTicketsDisabled || !conf.DynamicRecordSizingDisabled {
		t.Errorf("settings %+v", conf)
	}
	if want := []string{"http/1.1", "acme-tls/1"}; !slices.Equal(conf.NextProtos, want) {
		t.Errorf("ALPN %q, want %q", conf.NextProtos, want)
	}
	for name, want := range map[string]tls.Certificate{"a.example": a, "b.example": b, "": a, "c.example": a} {
		hello := &tls.ClientHelloInfo{ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13},
			SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}}
		got, err := conf.GetCertificate(hello)
		if err != nil || len(got.Certificate) != 2 || string(got.Certificate[0]) != string(want.Certificate[0]) ||
			string(got.Certificate[1]) != string(s.meta) {
			t.Errorf("%q: got %v, %v", name, got, err)
		}
		if again, _ := conf.GetCertificate(hello); again != got {
			t.Errorf("%q: the chain is put together anew for each handshake", name)
		}
	}
	if _, err := s.TLSConfig(&tls.Config{}).GetCertificate(&tls.ClientHelloInfo{}); err == nil {
		t.Error("no certificate, no error")
	}
	if len(a.Certificate) != 1 {
		t.Error("the certificate of the configuration was modified")
	}
}

func TestFileTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		ca := relaytest.NewCA(t)
		certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		s := newTestServer(t, Config{})
		if _, err := s.FileTLS(certFile, keyFile); err == nil || !strings.Contains(err.Error(), "cert.pem") {
			t.Errorf("without files: %v", err)
		}
		first, second := ca.Issue(time.Hour, "a.example"), ca.Issue(time.Hour, "a.example")
		writePEM(t, certFile, keyFile, first)
		conf, err := s.FileTLS(certFile, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		want := func(step string, c tls.Certificate) {
			t.Helper()
			got, err := conf.GetCertificate(&tls.ClientHelloInfo{})
			if err != nil || string(got.Certificate[0]) != string(c.Certificate[0]) {
				t.Errorf("%s: got another certificate, %v", step, err)
			}
		}
		want("at first", first)
		writePEM(t, certFile, keyFile, second)
		stamp := time.Now().Add(time.Hour)
		os.Chtimes(certFile, stamp, stamp)
		want("just changed", first)
		time.Sleep(certCheckInterval + time.Second)
		want("changed", second)
		if err := os.WriteFile(certFile, []byte("half a file"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(certCheckInterval + time.Second)
		want("broken", second)
		os.Remove(keyFile)
		time.Sleep(certCheckInterval + time.Second)
		want("removed", second)
		writePEM(t, certFile, keyFile, first)
		time.Sleep(certCheckInterval + time.Second)
		want("mended", first)
		writePEM(t, certFile, keyFile, second)
		os.Chtimes(certFile, stamp, stamp)
		s.ReloadCertificates()
		s.ReloadCertificates()
		synctest.Wait()
		want("asked for", second)
		writePEM(t, certFile, keyFile, first)
		s.ReloadCertificates()
		synctest.Wait()
		s.Close()
		s.ReloadCertificates()
		if _, err := s.FileTLS(certFile, keyFile); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		want("closed", first)
	})
}

func writePEM(t *testing.T, certFile, keyFile string, c tls.Certificate) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, b := range map[string][]byte{certFile: pemBlock("CERTIFICATE", c.Certificate[0]),
		keyFile: pemBlock("PRIVATE KEY", der)} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSelfSignedTLS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	_, pin, err := SelfSignedTLS(dir, "relay.example", "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "self-signed.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info, err)
	}
	if _, again, err := SelfSignedTLS(dir, "192.0.2.1"); err != nil || again != pin {
		t.Errorf("second time: pin %s, %v, want %s", again, err, pin)
	}
	m := relay.Map{Regions: map[int]*relay.Region{1: {RegionID: 1,
		Nodes: []*relay.Node{{Name: "a", RegionID: 1, HostName: "h", CertName: pin}}}}}
	if err := m.Validate(); err != nil {
		t.Errorf("pin %q is not one for the map: %v", pin, err)
	}
	if _, _, err := SelfSignedTLS(dir, "other.example"); err == nil ||
		!strings.Contains(err.Error(), "remove the file for a new certificate") {
		t.Errorf("for another host: %v", err)
	}
	if _, _, err := SelfSignedTLS(t.TempDir()); err == nil {
		t.Error("certificate for nobody")
	}
	broken := t.TempDir()
	path := filepath.Join(broken, "self-signed.pem")
	os.WriteFile(path, []byte("mine"), 0o600)
	if _, _, err := SelfSignedTLS(broken, "h"); err == nil {
		t.Error("broken file accepted")
	}
	if b, _ := os.ReadFile(path); string(b) != "mine" {
		t.Error("broken file replaced")
	}
}

func TestACME(t *testing.T) {
	m := ACME(t.TempDir(), "mail@example", "relay.example")
	if err := m.HostPolicy(t.Context(), "relay.example"); err != nil {
		t.Error(err)
	}
	if err := m.HostPolicy(t.Context(), "other.example"); err == nil {
		t.Error("certificates for any host")
	}
	s := newTestServer(t, Config{})
	if conf := s.TLSConfig(m.TLSConfig()); !slices.Contains(conf.NextProtos, "acme-tls/1") {
		t.Errorf("ALPN %q", conf.NextProtos)
	}
}

func TestLoadKey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sub", "relay.key")
	k, err := LoadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info, err)
	}
	if again, err := LoadKey(path); err != nil || again != k {
		t.Errorf("second time: another key, %v", err)
	}
	f := relaytest.LoadVectors(t)
	derper := filepath.Join(dir, "derper.key")
	os.WriteFile(derper, []byte("{\n\t\"PrivateKey\": \""+f.Keys["server_private_text"]+"\"\n}"), 0o600)
	if k, err := LoadKey(derper); err != nil || k.Public() != f.Public(t, "server") {
		t.Errorf("derper's file: %v, %v", k.Public(), err)
	}
	for _, content := range []string{"", "{}", `{"PrivateKey":""}`, `{"PrivateKey":"privkey:00"}`,
		f.Keys["server_private_text"]} {
		bad := filepath.Join(dir, "bad.key")
		os.WriteFile(bad, []byte(content), 0o600)
		_, err := LoadKey(bad)
		if err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: got %v", content, err)
		}
		if got, _ := os.ReadFile(bad); string(got) != content {
			t.Errorf("%q: file changed", content)
		}
	}
	if _, err := LoadKey(dir); err == nil {
		t.Error("a directory is a key")
	}
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
