package relay

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/internal/key"
)

// testCA signs certificates for tests.
type testCA struct {
	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestCA(tb testing.TB) *testCA {
	ca := &testCA{tb: tb, key: newECKey(tb)}
	tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, ca.key.Public(), ca.key)
	if err != nil {
		tb.Fatal(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	return ca
}

func newECKey(tb testing.TB) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func (ca *testCA) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.cert)
	return p
}

// issue makes a certificate that ends after lifetime; a host may be a name or an address.
func (ca *testCA) issue(lifetime time.Duration, hosts ...string) tls.Certificate {
	k := newECKey(ca.tb)
	tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: hosts[0]}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lifetime),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, k.Public(), ca.key)
	if err != nil {
		ca.tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		ca.tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: leaf}
}

// Section 1.4: whom a client trusts, for what the map says about the node. Each refusal says what is wrong.
func TestClientTrust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, stranger := newTestCA(t), newTestCA(t)
		const day = 24 * time.Hour
		good, other, byIP := ca.issue(day, "relay.example"), ca.issue(day, "front.example"), ca.issue(day, "192.0.2.1")
		expired, unknown := ca.issue(-time.Minute, "relay.example"), stranger.issue(day, "relay.example")
		withChain := good
		withChain.Certificate = append(slices.Clone(good.Certificate), ca.cert.Raw)
		for name, c := range map[string]struct {
			cert tls.Certificate
			node Node
			want string // in the error; empty if the client is to trust
		}{
			"chain":                         {good, Node{HostName: "relay.example"}, ""},
			"CertName equal to HostName":    {good, Node{HostName: "relay.example", CertName: "relay.example"}, ""},
			"other host":                    {other, Node{HostName: "relay.example"}, "valid for front.example, not relay.example"},
			"expired":                       {expired, Node{HostName: "relay.example"}, "expired"},
			"unknown authority":             {unknown, Node{HostName: "relay.example"}, "unknown authority"},
			"fronted":                       {other, Node{HostName: "relay.example", CertName: "front.example"}, ""},
			"fronted by another":            {good, Node{HostName: "relay.example", CertName: "front.example"}, "not front.example"},
			"address":                       {byIP, Node{HostName: "192.0.2.1"}, ""},
			"address not in it":             {good, Node{HostName: "192.0.2.1"}, "192.0.2.1"},
			"pin":                           {unknown, Node{HostName: "relay.example", CertName: CertPin(unknown.Leaf)}, ""},
			"pin with address":              {unknown, Node{HostName: "192.0.2.1", CertName: CertPin(unknown.Leaf)}, ""},
			"wrong pin":                     {good, Node{HostName: "relay.example", CertName: CertPin(unknown.Leaf)}, "want " + CertPin(unknown.Leaf)},
			"pin of an expired one":         {expired, Node{HostName: "relay.example", CertName: CertPin(expired.Leaf)}, "pinned certificate is valid from"},
			"pin for another host":          {other, Node{HostName: "relay.example", CertName: CertPin(other.Leaf)}, "not relay.example"},
			"pin of one among two":          {withChain, Node{HostName: "relay.example", CertName: CertPin(good.Leaf)}, "exactly one certificate"},
			"insecure":                      {unknown, Node{HostName: "strange.example", InsecureForTests: true}, ""},
			"insecure, expired":             {expired, Node{HostName: "relay.example", InsecureForTests: true}, ""},
			"insecure, same CertName":       {unknown, Node{HostName: "s.example", CertName: "s.example", InsecureForTests: true}, ""},
			"insecure, CertName of another": {good, Node{HostName: "relay.example", CertName: "front.example", InsecureForTests: true}, "not front.example"},
			"insecure, wrong pin":           {good, Node{HostName: "relay.example", CertName: CertPin(unknown.Leaf), InsecureForTests: true}, "want " + CertPin(unknown.Leaf)},
		} {
			n := newMemNet()
			s := newTestServer(t, ServerConfig{})
			var hello *tls.ClientHelloInfo
			conf := s.TLSConfig(&tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				hello = h
				return &c.cert, nil
			}})
			serveUntilEnd(t, s, n.listen(c.node.HostName+":443"), conf)
			c.node.Name, c.node.RegionID = "1a", 1
			client, err := DialRegion(t.Context(), &Region{RegionID: 1, Nodes: []*Node{&c.node}},
				ClientConfig{Key: key.NewNodePrivate(), Roots: ca.pool(), DialContext: n.DialContext})
			if err == nil {
				client.Close()
			}
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got error %v, want %q in it", name, err, c.want)
			}
			if hello == nil {
				t.Fatalf("%s: no ClientHello", name)
			}
			wantSNI := c.node.HostName
			if net.ParseIP(wantSNI) != nil {
				wantSNI = ""
			}
			if hello.ServerName != wantSNI || len(hello.SupportedProtos) != 0 {
				t.Errorf("%s: SNI %q and ALPN %q, want %q and none (1.3)", name, hello.ServerName, hello.SupportedProtos, wantSNI)
			}
			s.Close()
		}
	})
}

// Section 1.5, field by field.
func TestMetaCert(t *testing.T) {
	f := loadVectors(t)
	server := f.public(t, "server")
	now := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
	c, err := x509.ParseCertificate(newMetaCert(server, now))
	if err != nil {
		t.Fatal(err)
	}
	if want := string(f.find(t, "meta_cert_common_name")); c.Subject.CommonName != want || c.Issuer.CommonName != want {
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
	if k, ok := parseMetaCert([]*x509.Certificate{{Subject: pkix.Name{CommonName: "leaf"}}, c}); !ok || k != server {
		t.Errorf("parsed as %v, %v", k, ok)
	}
	digits := hex.EncodeToString(server[:])
	for _, cn := range []string{"derpkey", "derpkey" + digits[1:], "derpkey" + digits + "0", "derpkeyg" + digits[1:], "derpkey" + strings.Repeat("0", 64), digits} {
		bad := *c
		bad.Subject.CommonName = cn
		if _, ok := parseMetaCert([]*x509.Certificate{&bad}); ok {
			t.Errorf("accepted with common name %q", cn)
		}
	}
	upper := *c
	upper.Subject.CommonName = "derpkey" + strings.ToUpper(digits)
	if k, ok := parseMetaCert([]*x509.Certificate{&upper}); !ok || k != server {
		t.Error("upper-case digits refused")
	}
}

// recorder is a relay behind a handler that notes the requests.
type recorder struct {
	*Server
	mu       sync.Mutex
	requests []*http.Request
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, req)
	r.mu.Unlock()
	r.Server.ServeHTTP(w, req)
}

// seen returns what was asked for: the Upgrade and Derp-Fast-Start headers of each request.
func (r *recorder) seen() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, req := range r.requests {
		out = append(out, strings.TrimSuffix(req.Header.Get("Upgrade")+" "+req.Header.Get(headerFastStart), " "))
	}
	return out
}

// startRecorder serves at relay.example:443 of n with a certificate of ca, with an http.Server of its own as a program
// that embeds a relay would.
func startRecorder(t *testing.T, n *memNet, conf func(s *Server) *tls.Config) *recorder {
	r := &recorder{Server: newTestServer(t, ServerConfig{})}
	hs := &http.Server{Handler: r}
	ln := r.Server.Listener(n.listen("relay.example:443"), conf(r.Server))
	done := make(chan struct{})
	go func() {
		defer close(done)
		hs.Serve(ln)
	}()
	t.Cleanup(func() { hs.Close(); <-done; r.Close() })
	return r
}

// Which start a client makes, and that it works: with TLS 1.3 the fast one, with 1.2 the normal one.
func TestFastStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t)
		base := &tls.Config{Certificates: []tls.Certificate{ca.issue(time.Hour, "relay.example")}}
		for _, c := range []struct {
			conf func(s *Server) *tls.Config
			want string
		}{
			{func(s *Server) *tls.Config { return s.TLSConfig(base) }, "DERP 1"},
			{func(s *Server) *tls.Config {
				conf := s.TLSConfig(base)
				conf.MaxVersion = tls.VersionTLS12
				return conf
			}, "DERP"},
			{func(s *Server) *tls.Config { return base }, "DERP"}, // something that takes the meta certificate out
		} {
			n := newMemNet()
			r := startRecorder(t, n, c.conf)
			echo(t, n, ClientConfig{Roots: ca.pool()}, TransportNative)
			if got := r.seen(); !slices.Equal(got, []string{c.want, c.want}) {
				t.Errorf("requests %q, want %q twice", got, c.want)
			}
			r.Close()
		}
	})
}

// echo sends a packet, and one larger than a WebSocket message, from one client of relay.example to another and back.
func echo(t *testing.T, n *memNet, cfg ClientConfig, want Transport) {
	t.Helper()
	region := &Region{RegionID: 1, Nodes: []*Node{{Name: "1a", RegionID: 1, HostName: "relay.example"}}}
	cfg.DialContext = n.DialContext
	cfg.Log = testLog(t)
	cfg.Key = key.NewNodePrivate()
	a := dialTest(t, region, cfg)
	ka := cfg.Key.Public()
	cfg.Key = key.NewNodePrivate()
	b := dialTest(t, region, cfg)
	kb := cfg.Key.Public()
	if a.Transport() != want || b.Transport() != want {
		t.Errorf("transports %v and %v, want %v", a.Transport(), b.Transport(), want)
	}
	wantKind(t, b, messageLoggedIn)
	wantKind(t, a, messageLoggedIn)
	for _, size := range []int{0, 100, 1400, 40_000, MaxPacket} {
		packet := make([]byte, size)
		rand.Read(packet)
		if err := a.Send(kb, [][]byte{packet}); err != nil {
			t.Fatal(err)
		}
		there := wantKind(t, b, MessagePacket)
		b.Send(ka, [][]byte{there.Data})
		if back := wantKind(t, a, MessagePacket); string(back.Data) != string(packet) {
			t.Errorf("packet of %d bytes came back as %d", size, len(back.Data))
		}
	}
	a.Close()
	b.Close()
}

// inspector is a box between client and relay.example that ends TLS with its own certificate, as in many offices.
// filter changes or answers requests.
func startInspector(t *testing.T, inner *memNet, ca *testCA, filter func(req *http.Request) (answer string)) *memNet {
	outer := newMemNet()
	ln := outer.listen("relay.example:443")
	conf := &tls.Config{Certificates: []tls.Certificate{ca.issue(time.Hour, "relay.example")}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { inspect(t, inner, tls.Server(conn, conf), filter) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return outer
}

func inspect(t *testing.T, inner *memNet, client net.Conn, filter func(req *http.Request) string) {
	defer client.Close()
	br := bufio.NewReader(client)
	req, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	if answer := filter(req); answer != "" {
		io.WriteString(client, answer)
		return
	}
	raw, err := inner.DialContext(t.Context(), "tcp", "relay.example:443")
	if err != nil {
		return
	}
	server := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	defer server.Close()
	if err := req.Write(server); err != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(server, br); raw.Close() })
	wg.Go(func() { io.Copy(client, server); client.Close() })
	wg.Wait()
}

// What an inspector lets through decides how the client connects.
func TestInspectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t)
		for name, c := range map[string]struct {
			filter func(req *http.Request) string
			want   Transport
		}{
			"takes the meta certificate out": {func(*http.Request) string { return "" }, TransportNative},
			"strips the upgrade": {func(req *http.Request) string {
				if req.Header.Get("Upgrade") == "DERP" {
					req.Header.Del("Upgrade")
					req.Header.Del("Connection")
				}
				return ""
			}, TransportWebSocket},
			"refuses the upgrade": {func(req *http.Request) string {
				if req.Header.Get("Upgrade") == "DERP" {
					return "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
				}
				return ""
			}, TransportWebSocket},
		} {
			t.Log(name)
			inner := newMemNet()
			r := startRecorder(t, inner, func(s *Server) *tls.Config {
				return s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{ca.issue(time.Hour, "relay.example")}})
			})
			outer := startInspector(t, inner, ca, c.filter)
			echo(t, outer, ClientConfig{Roots: ca.pool()}, c.want)
			r.Close()
		}

		// A relay that is only too busy is not asked again.
		requests := 0
		outer := startInspector(t, newMemNet(), ca, func(*http.Request) string {
			requests++
			return "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
		})
		_, err := Dial(t.Context(), "https://relay.example/derp", ClientConfig{Key: key.NewNodePrivate(), Roots: ca.pool(), DialContext: outer.DialContext})
		if err == nil || !strings.Contains(err.Error(), "503 Service Unavailable") || requests != 1 {
			t.Errorf("got %v after %d requests", err, requests)
		}
	})
}

// The relay's TLS settings (1.3).
func TestServerTLSConfig(t *testing.T) {
	s := newTestServer(t, ServerConfig{})
	ca := newTestCA(t)
	a, b := ca.issue(time.Hour, "a.example"), ca.issue(time.Hour, "b.example")
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
		if err != nil || len(got.Certificate) != 2 || string(got.Certificate[0]) != string(want.Certificate[0]) || string(got.Certificate[1]) != string(s.meta) {
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
		ca := newTestCA(t)
		certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		if _, err := FileTLS(certFile, keyFile, nil); err == nil || !strings.Contains(err.Error(), "cert.pem") {
			t.Errorf("without files: %v", err)
		}
		first, second := ca.issue(time.Hour, "a.example"), ca.issue(time.Hour, "a.example")
		writePEM(t, certFile, keyFile, first)
		conf, err := FileTLS(certFile, keyFile, testLog(t))
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
		time.Sleep(certCheckInterval)
		want("changed", second)
		if err := os.WriteFile(certFile, []byte("half a file"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(certCheckInterval)
		want("broken", second)
		os.Remove(keyFile)
		time.Sleep(certCheckInterval)
		want("removed", second)
		writePEM(t, certFile, keyFile, first)
		time.Sleep(certCheckInterval)
		want("mended", first)
	})
}

func writePEM(t *testing.T, certFile, keyFile string, c tls.Certificate) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, b := range map[string][]byte{certFile: pemBlock("CERTIFICATE", c.Certificate[0]), keyFile: pemBlock("PRIVATE KEY", der)} {
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
	if err := (&Node{Name: "a", RegionID: 1, HostName: "h", CertName: pin}).validate(1); err != nil {
		t.Errorf("pin %q is not one for the map: %v", pin, err)
	}
	if _, _, err := SelfSignedTLS(dir, "other.example"); err == nil || !strings.Contains(err.Error(), "changes the pin") {
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
	s := newTestServer(t, ServerConfig{})
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
	f := loadVectors(t)
	derper := filepath.Join(dir, "derper.key")
	os.WriteFile(derper, []byte("{\n\t\"PrivateKey\": \""+f.Keys["server_private_text"]+"\"\n}"), 0o600)
	if k, err := LoadKey(derper); err != nil || k.Public() != f.public(t, "server") {
		t.Errorf("derper's file: %v, %v", k.Public(), err)
	}
	for _, content := range []string{"", "{}", `{"PrivateKey":""}`, `{"PrivateKey":"privkey:00"}`, f.Keys["server_private_text"]} {
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

// refuseDERP is an inspector's filter that lets WebSocket through but not DERP.
func refuseDERP(req *http.Request) string {
	if req.Header.Get("Upgrade") == "DERP" {
		return "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
	}
	return ""
}

// refuser refuses upgrades to DERP as something behind the TLS of the relay would.
type refuser struct{ http.Handler }

func (h refuser) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "DERP" {
		http.Error(w, "no DERP here", http.StatusBadRequest)
		return
	}
	h.Handler.ServeHTTP(w, r)
}

// newHTTPServer serves h until the returned function is called.
func newHTTPServer(t *testing.T, ln net.Listener, h http.Handler) (stop func()) {
	hs := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		hs.Serve(ln)
	}()
	return func() { hs.Close(); <-done }
}
