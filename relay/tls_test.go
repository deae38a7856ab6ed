package relay

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"net"
	"net/http"
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

// Section 1.4: whom a client trusts, for what the map says about the node. Each refusal says what
// is wrong.
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
			"control characters in a name":  {ca.issue(time.Hour, "\x1b[31mred"), Node{HostName: "relay.example"}, "?[31mred"},
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

// startRecorder serves at relay.example:443 of n with a certificate of ca, with an http.Server of
// its own as a program that embeds a relay would.
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

// Which start a client makes, and that it works: with TLS 1.3 the fast one, with 1.2 the normal
// one.
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

// echo sends a packet, and one larger than a WebSocket message, from one client of relay.example to
// another and back.
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

// inspector is a box between client and relay.example that ends TLS with its own certificate, as in
// many offices. filter changes or answers requests.
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
