package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/control"
	"ginnel/control/store"
	"ginnel/key"
)

const testURL = "http://127.0.0.1:1"

var testRelays = control.DERPMap{Regions: map[int]*control.DERPRegion{
	900: {RegionID: 900, RegionCode: "test", Nodes: []*control.DERPNode{
		{Name: "900a", RegionID: 900, HostName: "relay.test"},
	}},
}}

// testNet is a server on an in-memory listener. It runs in a synctest bubble.
type testNet struct {
	t      *testing.T
	store  *store.Memory
	cfg    Config
	server *Server
	ln     *memListener
	http   *http.Server
	wg     sync.WaitGroup
}

// onNet runs a test with a server that has one user, alice.
func onNet(t *testing.T, adjust func(*Config), test func(t *testing.T, n *testNet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st := store.NewMemory()
		n := &testNet{t: t, store: st, cfg: Config{Store: st, URL: testURL, BaseDomain: "net.test", DERPMap: testRelays}}
		if adjust != nil {
			adjust(&n.cfg)
		}
		n.start()
		defer n.stop()
		if _, err := n.server.CreateUser(t.Context(), "alice", "Alice"); err != nil {
			t.Fatal(err)
		}
		test(t, n)
	})
}

func (n *testNet) start() {
	n.t.Helper()
	s, err := New(n.cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.server, n.ln = s, newMemListener()
	n.http = &http.Server{Handler: s}
	n.wg.Go(func() { n.http.Serve(n.ln) })
}

func (n *testNet) stop() {
	n.http.Close()
	n.server.Close()
	n.wg.Wait()
}

func (n *testNet) restart() {
	n.t.Helper()
	n.stop()
	n.start()
}

// authKey creates a reusable pre-auth key of alice.
func (n *testNet) authKey(adjust func(*AuthKeyRequest)) string {
	n.t.Helper()
	req := AuthKeyRequest{User: "alice", Reusable: true}
	if adjust != nil {
		adjust(&req)
	}
	k, err := n.server.CreateAuthKey(n.t.Context(), req)
	if err != nil {
		n.t.Fatal(err)
	}
	return k.Key
}

// settle waits until the steps of recent changes are published and received.
func settle() {
	time.Sleep(200 * time.Millisecond)
	synctest.Wait()
}

// peer is a node of a test.
type peer struct {
	*control.Client
	t        *testing.T
	net      *testNet
	machine  key.MachinePrivate
	node     key.NodePrivate
	disco    key.DiscoPublic
	host     control.Hostinfo
	from     netip.Addr  // source address; the zero Addr: the server sees the listener's
	powerOff atomic.Bool // the machine no longer sends, nor receives what is sent to it
	wg       sync.WaitGroup
	stop     context.CancelFunc // ends the stream

	mu     sync.Mutex
	latest *control.NetMap
	frames int
	err    error // of the stream
}

func (n *testNet) newPeer(hostname string) *peer {
	p := n.preparePeer(hostname)
	p.dial()
	n.t.Cleanup(p.leave)
	return p
}

func (n *testNet) preparePeer(hostname string) *peer {
	return &peer{
		t: n.t, net: n, machine: key.NewMachinePrivate(), node: key.NewNodePrivate(),
		disco: key.NewDiscoPrivate().Public(), host: control.Hostinfo{Hostname: hostname, OS: "linux"},
	}
}

func (p *peer) dial() {
	p.t.Helper()
	c, err := control.NewClient(control.ClientConfig{URL: testURL, MachineKey: p.machine, DialContext: p.dialServer})
	if err != nil {
		p.t.Fatal(err)
	}
	p.Client = c
}

func (p *peer) dialServer(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := p.net.ln.dial(ctx, p.from)
	return poweredConn{conn, &p.powerOff}, err
}

// poweredConn is a connection of a machine that may lose its power.
type poweredConn struct {
	net.Conn
	powerOff *atomic.Bool
}

// Read implements net.Conn. After the power is lost, it discards what arrives.
func (c poweredConn) Read(b []byte) (int, error) {
	for {
		if n, err := c.Conn.Read(b); err != nil || !c.powerOff.Load() {
			return n, err
		}
	}
}

// Write implements net.Conn.
func (c poweredConn) Write(b []byte) (int, error) {
	if c.powerOff.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// newPeerFrom is newPeer with a source address.
func (n *testNet) newPeerFrom(addr, hostname string) *peer {
	p := n.preparePeer(hostname)
	p.from = netip.MustParseAddr(addr)
	p.dial()
	n.t.Cleanup(p.leave)
	return p
}

func (p *peer) request() control.RegisterRequest {
	host := p.host
	return control.RegisterRequest{NodeKey: p.node.Public(), Hostinfo: &host}
}

// register sends a registration and returns its answer, or the reason of a refusal.
func (p *peer) register(adjust func(*control.RegisterRequest)) (*control.RegisterResponse, string) {
	p.t.Helper()
	req := p.request()
	if adjust != nil {
		adjust(&req)
	}
	resp, err := p.Register(p.t.Context(), req)
	if refused, ok := errors.AsType[*control.RefusedError](err); ok {
		return nil, refused.Reason
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return resp, ""
}

func withKey(k string) func(*control.RegisterRequest) {
	return func(r *control.RegisterRequest) { r.Auth = &control.RegisterAuth{AuthKey: k} }
}

// join registers with a pre-auth key and begins a stream.
func (n *testNet) join(hostname, authKey string) *peer {
	n.t.Helper()
	p := n.newPeer(hostname)
	if _, refused := p.register(withKey(authKey)); refused != "" {
		n.t.Fatalf("%s: %s", hostname, refused)
	}
	p.stream()
	p.update(nil)
	settle()
	return p
}

// stream begins a map stream in the background.
func (p *peer) stream() {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	c, req := p.Client, p.mapRequest()
	p.wg.Go(func() { p.follow(ctx, c, req) })
}

func (p *peer) follow(ctx context.Context, c *control.Client, req control.MapRequest) {
	for m, err := range c.Poll(ctx, req) {
		p.mu.Lock()
		if p.frames++; err != nil {
			p.err = err
		} else {
			p.latest = m
		}
		p.mu.Unlock()
	}
}

func (p *peer) mapRequest() control.MapRequest {
	host := p.host
	return control.MapRequest{NodeKey: p.node.Public(), DiscoKey: p.disco, Hostinfo: &host}
}

// update sends the state of the node to the server.
func (p *peer) update(adjust func(*control.MapRequest)) {
	p.t.Helper()
	req := p.mapRequest()
	if adjust != nil {
		adjust(&req)
	}
	if err := p.Update(p.t.Context(), req); err != nil {
		p.t.Fatal(err)
	}
}

// latestMap returns the latest map, and the number of frames so far.
func (p *peer) latestMap() (*control.NetMap, int) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.latest == nil {
		p.t.Fatalf("%s has no map: %v", p.host.Hostname, p.err)
	}
	return p.latest, p.frames
}

// sees returns the peer with a label, or nil.
func (p *peer) sees(label string) *control.Node {
	p.t.Helper()
	m, _ := p.latestMap()
	for _, n := range m.Peers {
		if n.Name == label+".net.test." {
			return n
		}
	}
	return nil
}

func (p *peer) self() *control.Node {
	p.t.Helper()
	m, _ := p.latestMap()
	return m.Self
}

// endStream ends the stream.
func (p *peer) endStream() {
	if p.stop != nil {
		p.stop()
		p.wg.Wait()
	}
}

// leave ends the stream and closes the connections.
func (p *peer) leave() {
	p.endStream()
	p.Close()
	p.wg.Wait()
}

func online(n *control.Node) bool { return n != nil && n.Online != nil && *n.Online }

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, s := range texts {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// letsIn reports whether a rule of the packet filter has an address as a source.
func letsIn(m *control.NetMap, from netip.Addr) bool {
	return slices.ContainsFunc(m.Filter, func(r control.FilterRule) bool {
		return slices.ContainsFunc(r.SrcIPs, func(src string) bool { return within(src, from) })
	})
}

// within reports whether an address matches a source of a rule: everything, an address, a prefix or
// a range.
func within(src string, a netip.Addr) bool {
	first, last, isRange := strings.Cut(src, "-")
	if p, err := netip.ParsePrefix(src); err == nil {
		return p.Contains(a)
	}
	if !isRange {
		last = first
	}
	lo, err := netip.ParseAddr(first)
	hi, err2 := netip.ParseAddr(last)
	return src == "*" || err == nil && err2 == nil && lo.Compare(a) <= 0 && a.Compare(hi) <= 0
}

func (n *testNet) nodes() []Node {
	n.t.Helper()
	p, err := n.server.listNodes(n.t.Context(), nodeFilter{}, pageRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	return p.Items
}

// node returns a node by its name.
func (n *testNet) node(name string) Node {
	n.t.Helper()
	for _, a := range n.nodes() {
		if a.Name == name {
			return a
		}
	}
	n.t.Fatalf("there is no node %s", name)
	return Node{}
}

func newNodeKey() key.NodePrivate { return key.NewNodePrivate() }
