package interop

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"tailscale.com/tailcfg"

	"ginnel/key"
	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// hostName is what relays are called here. It resolves nowhere: maps and dialers say where it is.
const hostName = "relay.test"

// carriage is how DERP gets through a relay's front door.
type carriage string

const (
	fastStart   carriage = "fast start"   // TLS 1.3 with the meta certificate
	normalStart carriage = "normal start" // TLS 1.2: the meta certificate is not used
	plainHTTP   carriage = "plain HTTP"
	webSocket   carriage = "WebSocket" // TLS, and whatever asks for another upgrade is turned away
)

var carriages = []carriage{fastStart, normalStart, plainHTTP, webSocket}

// derpServer is a relay of either make.
type derpServer interface {
	handler() http.Handler
	tlsConfig(base *tls.Config) *tls.Config
	publicKey() key.NodePublic
	// listener prepares what a front listens on.
	listener(ln net.Listener, conf *tls.Config) net.Listener
	close()
}

// relayHost is a relay on loopback with a front for each carriage.
type relayHost struct {
	server derpServer // nil if it runs elsewhere
	name   string
	public key.NodePublic
	host   string      // in maps
	base   *tls.Config // with the certificate
	pin    string
	roots  *x509.CertPool
	fronts map[carriage]*front
	stun   int // port, -1 if there is none
}

// startFronts opens all fronts of s until the test ends.
func startFronts(tb testing.TB, name string, s derpServer) *relayHost {
	tb.Helper()
	base, pin := selfSigned(tb)
	h := &relayHost{name: name, host: hostName, base: base, pin: pin, roots: x509.NewCertPool(), fronts: make(map[carriage]*front), stun: -1}
	h.roots.AddCert(base.Certificates[0].Leaf)
	h.serve(tb, s)
	tb.Cleanup(h.stop)
	return h
}

// serve opens the fronts, on the addresses they had before if there was a server before.
func (h *relayHost) serve(tb testing.TB, s derpServer) {
	tb.Helper()
	h.server, h.public = s, s.publicKey()
	for _, c := range carriages {
		addr := "127.0.0.1:0"
		if old := h.fronts[c]; old != nil {
			addr = old.addr.String()
		}
		h.fronts[c] = startFront(tb, s, c, h.base, addr)
	}
}

// stop closes the server and its fronts.
func (h *relayHost) stop() {
	for _, f := range h.fronts {
		f.close()
	}
	h.server.close()
}

// selfSigned makes a certificate for hostName and loopback, as the product makes them.
func selfSigned(tb testing.TB) (base *tls.Config, pin string) {
	tb.Helper()
	base, pin, err := relayserver.SelfSignedTLS(tb.TempDir(), hostName, "127.0.0.1")
	if err != nil {
		tb.Fatal(err)
	}
	return base, pin
}

// front is one listener of a relay. It keeps the headers of the requests that ask for DERP.
type front struct {
	carriage carriage
	addr     netip.AddrPort
	next     http.Handler
	server   *http.Server
	donec    chan struct{}

	mu     sync.Mutex
	asked  []http.Header
	refuse bool // all upgrades but to WebSocket
}

func startFront(tb testing.TB, s derpServer, c carriage, base *tls.Config, addr string) *front {
	tb.Helper()
	ln, err := relayserver.Listen(tb.Context(), addr)
	if err != nil {
		tb.Fatal(err)
	}
	f := &front{addr: ln.Addr().(*net.TCPAddr).AddrPort(), carriage: c, next: s.handler(), refuse: c == webSocket}
	f.server = &http.Server{Handler: f}
	f.donec = make(chan struct{})
	go func() {
		defer close(f.donec)
		f.server.Serve(s.listener(ln, frontTLS(s, c, base)))
	}()
	return f
}

func (f *front) close() {
	f.server.Close()
	<-f.donec
}

// frontTLS returns the TLS settings of a front, nil for none. What ends TLS on the way and lets
// only WebSocket through does not know the meta certificate.
func frontTLS(s derpServer, c carriage, base *tls.Config) *tls.Config {
	switch c {
	case plainHTTP:
		return nil
	case webSocket:
		return base
	}
	conf := s.tlsConfig(base)
	if c == normalStart {
		conf.MaxVersion = tls.VersionTLS12
	}
	return conf
}

// ServeHTTP passes requests on to the relay, except those that the front refuses.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/derp" {
		f.mu.Lock()
		f.asked = append(f.asked, r.Header.Clone())
		refuse := f.refuse && !strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
		f.mu.Unlock()
		if refuse {
			http.Error(w, "only WebSocket passes here", http.StatusForbidden)
			return
		}
	}
	f.next.ServeHTTP(w, r)
}

// lastAsked returns the headers of the last request for DERP.
func (f *front) lastAsked() http.Header {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) == 0 {
		return nil
	}
	return f.asked[len(f.asked)-1]
}

// refuseNative has the front let only WebSocket through from now on.
func (f *front) refuseNative() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = true
}

// timesAsked returns how many connections asked for DERP so far.
func (f *front) timesAsked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

// url is the front as mesh links and other clients without a map name it.
func (f *front) url() string {
	scheme := "https"
	if f.carriage == plainHTTP {
		scheme = "http"
	}
	return fmt.Sprintf("%s://%s/derp", scheme, f.addr)
}

// node is the relay, by one of its fronts, as a map lists it.
func (h *relayHost) node(c carriage) *relay.Node {
	return &relay.Node{Name: "1a", RegionID: 1, HostName: h.host, CertName: h.pin, IPv4: "127.0.0.1", IPv6: "none",
		DERPPort: int(h.fronts[c].addr.Port()), STUNPort: h.stun}
}

// derpMap is a map with one region, which has this relay.
func (h *relayHost) derpMap(c carriage) relay.Map {
	return relay.Map{Regions: map[int]*relay.Region{
		1: {RegionID: 1, RegionCode: "test", RegionName: "Test", Nodes: []*relay.Node{h.node(c)}},
	}}
}

// theirMap is a map as they read it: it goes through the JSON that a control server would send.
func theirMap(tb testing.TB, m relay.Map) *tailcfg.DERPMap {
	tb.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	out := new(tailcfg.DERPMap)
	if err := json.Unmarshal(b, out); err != nil {
		tb.Fatal(err)
	}
	return out
}
