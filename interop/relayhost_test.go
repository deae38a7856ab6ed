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

// hostName is the host name of the relays. It resolves nowhere: maps and dialers have the address.
const hostName = "relay.test"

// upgradeMode is the way a client gets from a TCP connection to DERP.
type upgradeMode string

const (
	fastStart   upgradeMode = "fast start"   // TLS 1.3 with the meta certificate
	normalStart upgradeMode = "normal start" // TLS 1.2: the meta certificate is not used
	plainHTTP   upgradeMode = "plain HTTP"
	webSocket   upgradeMode = "WebSocket" // TLS; other upgrades are refused
)

var upgradeModes = []upgradeMode{fastStart, normalStart, plainHTTP, webSocket}

// derpServer is a relay of either make.
type derpServer interface {
	handler() http.Handler
	tlsConfig(base *tls.Config) *tls.Config
	publicKey() key.NodePublic
	// listener wraps the listener of a front.
	listener(ln net.Listener, conf *tls.Config) net.Listener
	close()
}

// relayHost is a relay on loopback with a front for each upgrade mode.
type relayHost struct {
	server derpServer // nil if it runs in another process
	name   string
	public key.NodePublic
	host   string      // host name in maps
	base   *tls.Config // with the certificate
	pin    string
	roots  *x509.CertPool
	fronts map[upgradeMode]*front
	stun   int // port, -1 if there is none
}

// startFronts opens all fronts of s until the test ends.
func startFronts(tb testing.TB, name string, s derpServer) *relayHost {
	tb.Helper()
	base, pin := selfSigned(tb)
	h := &relayHost{name: name, host: hostName, base: base, pin: pin, roots: x509.NewCertPool(),
		fronts: make(map[upgradeMode]*front), stun: -1}
	h.roots.AddCert(base.Certificates[0].Leaf)
	h.serve(tb, s)
	tb.Cleanup(h.stop)
	return h
}

// serve opens the fronts. If there was a server before, they have the same addresses as before.
func (h *relayHost) serve(tb testing.TB, s derpServer) {
	tb.Helper()
	h.server, h.public = s, s.publicKey()
	for _, c := range upgradeModes {
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

// selfSigned makes a certificate for hostName and loopback as our relay does.
func selfSigned(tb testing.TB) (base *tls.Config, pin string) {
	tb.Helper()
	base, pin, err := relayserver.SelfSignedTLS(tb.TempDir(), hostName, "127.0.0.1")
	if err != nil {
		tb.Fatal(err)
	}
	return base, pin
}

// front is one listener of a relay. It records the headers of requests for DERP.
type front struct {
	mode   upgradeMode
	addr   netip.AddrPort
	next   http.Handler
	server *http.Server
	donec  chan struct{}

	mu     sync.Mutex
	asked  []http.Header
	refuse bool // refuse all upgrades except WebSocket
}

func startFront(tb testing.TB, s derpServer, c upgradeMode, base *tls.Config, addr string) *front {
	tb.Helper()
	ln, err := relayserver.Listen(tb.Context(), addr)
	if err != nil {
		tb.Fatal(err)
	}
	f := &front{addr: ln.Addr().(*net.TCPAddr).AddrPort(), mode: c, next: s.handler(), refuse: c == webSocket}
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

// frontTLS returns the TLS settings of a front, nil for none. The WebSocket front has no meta
// certificate, because it stands for a middlebox that terminates TLS.
func frontTLS(s derpServer, c upgradeMode, base *tls.Config) *tls.Config {
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

// ServeHTTP passes requests to the relay, except those that the front refuses.
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

// refuseNative makes the front refuse all upgrades except WebSocket from now on.
func (f *front) refuseNative() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = true
}

// timesAsked returns the number of requests for DERP so far.
func (f *front) timesAsked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

// url returns the URL of the front, for clients without a map.
func (f *front) url() string {
	scheme := "https"
	if f.mode == plainHTTP {
		scheme = "http"
	}
	return fmt.Sprintf("%s://%s/derp", scheme, f.addr)
}

// node returns the relay as a map lists it, with the address of one of its fronts.
func (h *relayHost) node(c upgradeMode) *relay.Node {
	return &relay.Node{Name: "1a", RegionID: 1, HostName: h.host, CertName: h.pin, IPv4: "127.0.0.1", IPv6: "none",
		DERPPort: int(h.fronts[c].addr.Port()), STUNPort: h.stun}
}

// derpMap returns a map with one region and this relay.
func (h *relayHost) derpMap(c upgradeMode) relay.Map {
	return relay.Map{Regions: map[int]*relay.Region{
		1: {RegionID: 1, RegionCode: "test", RegionName: "Test", Nodes: []*relay.Node{h.node(c)}},
	}}
}

// theirMap converts a map to their type through the JSON that a coordination server sends.
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
