package relay_test

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/rawpeer"
	"ginnel/relay/internal/relaytest"
	"ginnel/relay/server"
)

// Section 1.4: which certificates a client trusts for each description of a node. Each error says
// what is wrong.
func TestClientTrust(t *testing.T) {
	type node = relay.Node
	pin := relay.CertPin
	synctest.Test(t, func(t *testing.T) {
		ca, stranger := relaytest.NewCA(t), relaytest.NewCA(t)
		const day = 24 * time.Hour
		good, other, byIP := ca.Issue(day, "relay.example"), ca.Issue(day, "front.example"), ca.Issue(day, "192.0.2.1")
		expired, unknown := ca.Issue(-time.Minute, "relay.example"), stranger.Issue(day, "relay.example")
		withChain := good
		withChain.Certificate = append(slices.Clone(good.Certificate), ca.Cert.Raw)
		for name, c := range map[string]struct {
			cert tls.Certificate
			node relay.Node
			want string // in the error; empty if the client is to trust
		}{
			"chain":                      {good, node{HostName: "relay.example"}, ""},
			"CertName equal to HostName": {good, node{HostName: "relay.example", CertName: "relay.example"}, ""},
			"other host": {other, node{HostName: "relay.example"},
				"valid for front.example, not relay.example"},
			"expired":           {expired, node{HostName: "relay.example"}, "expired"},
			"unknown authority": {unknown, node{HostName: "relay.example"}, "unknown authority"},
			"fronted":           {other, node{HostName: "relay.example", CertName: "front.example"}, ""},
			"fronted by another": {good, node{HostName: "relay.example", CertName: "front.example"},
				"not front.example"},
			"control characters in a name": {ca.Issue(time.Hour, "\x1b[31mred"), node{HostName: "relay.example"},
				"?[31mred"},
			"address":           {byIP, node{HostName: "192.0.2.1"}, ""},
			"address not in it": {good, node{HostName: "192.0.2.1"}, "192.0.2.1"},
			"pin": {unknown, node{HostName: "relay.example", CertName: pin(unknown.Leaf)},
				""},
			"pin with address": {unknown, node{HostName: "192.0.2.1", CertName: pin(unknown.Leaf)}, ""},
			"wrong pin": {good, node{HostName: "relay.example", CertName: pin(unknown.Leaf)},
				"want " + pin(unknown.Leaf)},
			"pin of an expired one": {expired, node{HostName: "relay.example", CertName: pin(expired.Leaf)},
				"pinned certificate is valid from"},
			"pin for another host": {other, node{HostName: "relay.example", CertName: pin(other.Leaf)},
				"not relay.example"},
			"pin of one among two": {withChain, node{HostName: "relay.example", CertName: pin(good.Leaf)},
				"exactly one certificate"},
			"insecure":          {unknown, node{HostName: "strange.example", InsecureForTests: true}, ""},
			"insecure, expired": {expired, node{HostName: "relay.example", InsecureForTests: true}, ""},
			"insecure, same CertName": {unknown, node{HostName: "s.example", CertName: "s.example",
				InsecureForTests: true}, ""},
			"insecure, CertName of another": {good, node{HostName: "relay.example", CertName: "front.example",
				InsecureForTests: true}, "not front.example"},
			"insecure, wrong pin": {good, node{HostName: "relay.example", CertName: pin(unknown.Leaf),
				InsecureForTests: true}, "want " + pin(unknown.Leaf)},
		} {
			n := relaytest.NewNet()
			s := newServer(t, server.Config{})
			var hello *tls.ClientHelloInfo
			conf := s.TLSConfig(&tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				hello = h
				return &c.cert, nil
			}})
			rawpeer.Serve(t, s, n.Listen(c.node.HostName+":443"), conf)
			c.node.Name, c.node.RegionID = "1a", 1
			client, err := relay.DialRegion(t.Context(), &relay.Region{RegionID: 1, Nodes: []*relay.Node{&c.node}},
				relay.ClientConfig{Key: key.NewNodePrivate(), Roots: ca.Pool(), DialContext: n.DialContext})
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
				t.Errorf("%s: SNI %q and ALPN %q, want %q and none (1.3)", name, hello.ServerName,
					hello.SupportedProtos, wantSNI)
			}
			s.Close()
		}
	})
}

// recorder is a relay behind a handler that records the requests.
type recorder struct {
	*server.Server
	mu       sync.Mutex
	requests []*http.Request
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, req)
	r.mu.Unlock()
	r.Server.ServeHTTP(w, req)
}

// seen returns the Upgrade and Derp-Fast-Start headers of each request.
func (r *recorder) seen() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, req := range r.requests {
		out = append(out, strings.TrimSuffix(req.Header.Get("Upgrade")+" "+req.Header.Get(derp.HeaderFastStart), " "))
	}
	return out
}

// startRecorder serves relay.example:443 of n with an http.Server of its own, as a program that
// embeds a relay would.
func startRecorder(t *testing.T, n *relaytest.Net, conf func(s *server.Server) *tls.Config) *recorder {
	r := &recorder{Server: newServer(t, server.Config{})}
	hs := &http.Server{Handler: r}
	ln := r.Server.Listener(n.Listen("relay.example:443"), conf(r.Server))
	done := make(chan struct{})
	go func() {
		defer close(done)
		hs.Serve(ln)
	}()
	t.Cleanup(func() { hs.Close(); <-done; r.Close() })
	return r
}

// A client makes a fast start with TLS 1.3 and a normal one with TLS 1.2, and both work.
func TestFastStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := relaytest.NewCA(t)
		base := &tls.Config{Certificates: []tls.Certificate{ca.Issue(time.Hour, "relay.example")}}
		for _, c := range []struct {
			conf func(s *server.Server) *tls.Config
			want string
		}{
			{func(s *server.Server) *tls.Config { return s.TLSConfig(base) }, "DERP 1"},
			{func(s *server.Server) *tls.Config {
				conf := s.TLSConfig(base)
				conf.MaxVersion = tls.VersionTLS12
				return conf
			}, "DERP"},
			// something that takes the meta certificate out
			{func(s *server.Server) *tls.Config { return base }, "DERP"},
		} {
			n := relaytest.NewNet()
			r := startRecorder(t, n, c.conf)
			echo(t, n, relay.ClientConfig{Roots: ca.Pool()}, relay.TransportNative)
			if got := r.seen(); !slices.Equal(got, []string{c.want, c.want}) {
				t.Errorf("requests %q, want %q twice", got, c.want)
			}
			r.Close()
		}
	})
}

// echo sends packets of several sizes from one client of relay.example to another and back,
// including one larger than a WebSocket message.
func echo(t *testing.T, n *relaytest.Net, cfg relay.ClientConfig, want relay.Transport) {
	t.Helper()
	region := &relay.Region{RegionID: 1, Nodes: []*relay.Node{{Name: "1a", RegionID: 1, HostName: "relay.example"}}}
	cfg.DialContext = n.DialContext
	cfg.Log = relaytest.Log(t)
	cfg.Key = key.NewNodePrivate()
	a := relay.DialTest(t, region, cfg)
	ka := cfg.Key.Public()
	cfg.Key = key.NewNodePrivate()
	b := relay.DialTest(t, region, cfg)
	kb := cfg.Key.Public()
	if a.Transport() != want || b.Transport() != want {
		t.Errorf("transports %v and %v, want %v", a.Transport(), b.Transport(), want)
	}
	relay.WantKind(t, b, relay.MessageLoggedIn)
	relay.WantKind(t, a, relay.MessageLoggedIn)
	for _, size := range []int{0, 100, 1400, 40_000, derp.MaxPacket} {
		packet := make([]byte, size)
		rand.Read(packet)
		if err := a.Send(kb, [][]byte{packet}); err != nil {
			t.Fatal(err)
		}
		there := relay.WantKind(t, b, relay.MessagePacket)
		b.Send(ka, [][]byte{there.Data})
		if back := relay.WantKind(t, a, relay.MessagePacket); string(back.Data) != string(packet) {
			t.Errorf("packet of %d bytes came back as %d", size, len(back.Data))
		}
	}
	a.Close()
	b.Close()
}

// startInspector starts a TLS-inspecting proxy between clients and relay.example: it ends TLS with
// a certificate of its own. filter changes requests, or answers them.
func startInspector(t *testing.T, inner *relaytest.Net, ca *relaytest.CA,
	filter func(req *http.Request) (answer string)) *relaytest.Net {
	outer := relaytest.NewNet()
	ln := outer.Listen("relay.example:443")
	conf := &tls.Config{Certificates: []tls.Certificate{ca.Issue(time.Hour, "relay.example")}}
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

func inspect(t *testing.T, inner *relaytest.Net, client net.Conn, filter func(req *http.Request) string) {
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

// What an inspecting proxy lets through decides the transport.
func TestInspectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := relaytest.NewCA(t)
		for name, c := range map[string]struct {
			filter func(req *http.Request) string
			want   relay.Transport
		}{
			"takes the meta certificate out": {func(*http.Request) string { return "" }, relay.TransportNative},
			"strips the upgrade": {func(req *http.Request) string {
				if req.Header.Get("Upgrade") == "DERP" {
					req.Header.Del("Upgrade")
					req.Header.Del("Connection")
				}
				return ""
			}, relay.TransportWebSocket},
			"refuses the upgrade": {func(req *http.Request) string {
				if req.Header.Get("Upgrade") == "DERP" {
					return "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
				}
				return ""
			}, relay.TransportWebSocket},
		} {
			t.Log(name)
			inner := relaytest.NewNet()
			r := startRecorder(t, inner, func(s *server.Server) *tls.Config {
				return s.TLSConfig(&tls.Config{Certificates: []tls.Certificate{ca.Issue(time.Hour, "relay.example")}})
			})
			outer := startInspector(t, inner, ca, c.filter)
			echo(t, outer, relay.ClientConfig{Roots: ca.Pool()}, c.want)
			r.Close()
		}

		// A relay that is only too busy is not asked again.
		requests := 0
		outer := startInspector(t, relaytest.NewNet(), ca, func(*http.Request) string {
			requests++
			return "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
		})
		_, err := relay.Dial(t.Context(), "https://relay.example/derp",
			relay.ClientConfig{Key: key.NewNodePrivate(), Roots: ca.Pool(), DialContext: outer.DialContext})
		if err == nil || !strings.Contains(err.Error(), "503 Service Unavailable") || requests != 1 {
			t.Errorf("got %v after %d requests", err, requests)
		}
	})
}

// refuseDERP is a filter that refuses native DERP and passes WebSocket.
func refuseDERP(req *http.Request) string {
	if req.Header.Get("Upgrade") == "DERP" {
		return "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
	}
	return ""
}

// refuser refuses upgrades to native DERP behind the TLS of the relay.
type refuser struct{ http.Handler }

func (h refuser) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "DERP" {
		http.Error(w, "no DERP here", http.StatusBadRequest)
		return
	}
	h.Handler.ServeHTTP(w, r)
}

// newHTTPServer serves h until stop is called.
func newHTTPServer(t *testing.T, ln net.Listener, h http.Handler) (stop func()) {
	hs := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		hs.Serve(ln)
	}()
	return func() { hs.Close(); <-done }
}
