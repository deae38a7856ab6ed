package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// TestMain fails if a goroutine outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	for range 200 {
		if left() == "" {
			os.Exit(code)
		}
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Fprintln(os.Stderr, "goroutines left after the tests:\n"+left())
	os.Exit(1)
}

func left() string {
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var out []string
	for i, g := range strings.Split(string(buf), "\n\n") {
		if i > 0 && !strings.Contains(g, "os/signal.") {
			out = append(out, g)
		}
	}
	return strings.Join(out, "\n\n")
}

var (
	loopback = netip.MustParseAddr("127.0.0.1")
	region   = 900
)

// mesh is a relay on loopback and the nodes that use it.
type mesh struct {
	t      testing.TB
	srv    *relayserver.Server
	relays relay.Map
	nodes  []*member
	wg     sync.WaitGroup
}

// member is a node of the mesh; Node is nil before it is started.
type member struct {
	*Node
	mesh *mesh
	name string
	key  key.NodePrivate
	addr netip.Addr
}

func newMesh(t testing.TB) *mesh {
	t.Helper()
	m := &mesh{t: t}
	var err error
	if m.srv, err = relayserver.New(relayserver.Config{Key: key.NewNodePrivate()}); err != nil {
		t.Fatal(err)
	}
	conf, pin, err := relayserver.SelfSignedTLS(t.TempDir(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.wg.Go(func() { m.srv.Serve(ln, m.srv.TLSConfig(conf)) })
	m.wg.Go(func() { m.srv.ServeSTUN(pc) })
	m.relays = relay.Map{Regions: map[int]*relay.Region{region: {RegionID: region, RegionCode: "test",
		Nodes: []*relay.Node{{
			Name: "900a", RegionID: region, HostName: "127.0.0.1", CertName: pin, IPv6: "none",
			DERPPort: ln.Addr().(*net.TCPAddr).Port, STUNPort: pc.LocalAddr().(*net.UDPAddr).Port,
		}}}}}
	t.Cleanup(func() {
		for _, n := range m.nodes {
			if n.Node != nil {
				n.Close()
			}
		}
		m.srv.Close()
		m.wg.Wait()
	})
	return m
}

// add makes a member without starting it.
func (m *mesh) add(name string) *member {
	n := &member{mesh: m, name: name, key: key.NewNodePrivate(),
		addr: netip.AddrFrom4([4]byte{100, 64, 0, byte(len(m.nodes) + 1)})}
	m.nodes = append(m.nodes, n)
	return n
}

// start starts a member that knows all other members, by relay only.
func (n *member) start(change ...func(*Config)) {
	n.mesh.t.Helper()
	cfg := Config{Key: n.key, Map: n.netmap(false), UDPAddr: loopback, Token: "token", Log: testLog(n.mesh.t, n.name)}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if n.Node, err = New(cfg); err != nil {
		n.mesh.t.Fatal(err)
	}
}

// startReady starts a member and waits until it is connected to the relay, which drops packets to
// it before.
func (n *member) startReady(change ...func(*Config)) {
	n.mesh.t.Helper()
	n.start(change...)
	eventually(n.mesh.t, n.name+" at its relay", func() bool { return n.Status().State == StateRunning })
}

// netmap returns the map of one member, with or without what discovery needs.
func (n *member) netmap(discovery bool) NetworkMap {
	m := NetworkMap{Name: n.name, Addresses: single(n.addr), Relays: n.mesh.relays, Home: region}
	for _, p := range n.mesh.nodes {
		if p == n {
			continue
		}
		peer := Peer{Name: p.name, Key: p.key.Public(), Addresses: single(p.addr), Region: region}
		if discovery {
			peer.Disco = p.DiscoKey()
			peer.Endpoints = []netip.AddrPort{netip.AddrPortFrom(loopback, p.UDPPort())}
		}
		m.Peers = append(m.Peers, peer)
	}
	return m
}

func single(a netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())} }

// introduce starts discovery between all members.
func (m *mesh) introduce() {
	m.t.Helper()
	for _, n := range m.nodes {
		if err := n.SetMap(n.netmap(true)); err != nil {
			m.t.Fatal(err)
		}
	}
}

// two starts two members.
func two(t *testing.T, change ...func(*Config)) (a, b *member) {
	t.Helper()
	m := newMesh(t)
	a, b = m.add("alpha"), m.add("beta")
	b.startReady()
	a.start(change...) // which need not be at its relay for what follows
	return a, b
}

// path returns how n reaches p.
func (n *member) path(p *member) PathKind {
	for _, s := range n.Status().Peers {
		if s.NodeKey == p.key.Public() {
			return s.Path
		}
	}
	return ""
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for range 2000 {
		if done() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s: not within 10 s", what)
}

// handshakeAges waits until the last handshake with p is some time ago, because WireGuard takes two
// within 20 ms for a flood.
func (n *member) handshakeAges(p *member) {
	n.mesh.t.Helper()
	eventually(n.mesh.t, "the handshake ages", func() bool {
		return time.Since(n.plane.peers.sessions()[p.key.Public()].handshake) > 50*time.Millisecond
	})
}

// serveHTTP serves text on a port in the mesh.
func (n *member) serveHTTP(port uint16, text string) {
	n.mesh.t.Helper()
	ln, err := n.Listen(netip.AddrPortFrom(netip.Addr{}, port))
	if err != nil {
		n.mesh.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request) {
		io.WriteString(w, text)
	})}
	n.mesh.wg.Go(func() { srv.Serve(ln) })
	n.mesh.t.Cleanup(func() { srv.Close() })
}

// get fetches a page through DialContext.
func (n *member) get(url string) (string, error) {
	c := n.HTTPClient()
	defer c.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(n.mesh.t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// testLog writes the log of a node to standard error if tests run with -v. It does not use t.Log,
// because WireGuard's workers may log after the test has ended.
func testLog(t testing.TB, name string) *slog.Logger {
	if !testing.Verbose() {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("test",
		t.Name(), "node", name)
}

// tcp returns the address of a listener.
type tcp string

func (tcp) Network() string  { return "tcp" }
func (a tcp) String() string { return string(a) }

type udp string

func (udp) Network() string  { return "udp" }
func (a udp) String() string { return string(a) }

type socketFile string

func (socketFile) Network() string  { return "unix" }
func (a socketFile) String() string { return string(a) }
