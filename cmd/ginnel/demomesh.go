package main

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"ginnel/internal/key"
	"ginnel/node"
	"ginnel/relay"
)

// Names and addresses in the demo's mesh.
const (
	hereName  = "here"
	thereName = "there"
)

var (
	hereAddr  = netip.MustParseAddr("100.64.0.1")
	thereAddr = netip.MustParseAddr("100.64.0.2")
	loopback  = netip.MustParseAddr("127.0.0.1")
)

// demoRegion is in the range for private use (DERP specification, section 9.2).
const demoRegion = 900

// demoMesh is a mesh on loopback: a relay, a node that serves a web page and one that fetches it.
type demoMesh struct {
	srv       *relay.Server
	relayAddr net.Addr
	stunPort  int
	pin       string

	service string // host:port of the page
	web     *http.Server

	here, there       *node.Node
	hereKey, thereKey key.NodePrivate
	wg                sync.WaitGroup
}

func (m *demoMesh) startRelay(dir string) error {
	srv, err := relay.NewServer(relay.ServerConfig{Key: key.NewNodePrivate()})
	if err != nil {
		return err
	}
	m.srv = srv
	conf, pin, err := relay.SelfSignedTLS(dir, loopback.String())
	if err != nil {
		return err
	}
	m.pin = pin
	ln, err := net.Listen("tcp", loopback.String()+":0")
	if err != nil {
		return err
	}
	m.relayAddr = ln.Addr()
	m.wg.Go(func() { srv.Serve(ln, srv.TLSConfig(conf)) }) // until close
	pc, err := net.ListenPacket("udp", loopback.String()+":0")
	if err != nil {
		return err
	}
	m.stunPort = pc.LocalAddr().(*net.UDPAddr).Port
	m.wg.Go(func() { srv.ServeSTUN(pc) }) // until close
	return nil
}

func (m *demoMesh) startService() error {
	ln, err := net.Listen("tcp", loopback.String()+":0")
	if err != nil {
		return err
	}
	m.service = ln.Addr().String()
	m.web = &http.Server{Handler: http.HandlerFunc(servePrivatePage), ReadHeaderTimeout: demoTimeout}
	m.wg.Go(func() { m.web.Serve(ln) }) // until close
	return nil
}

func servePrivatePage(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "Hello from the private side.")
}

func (m *demoMesh) startNodes() (err error) {
	m.hereKey, m.thereKey = key.NewNodePrivate(), key.NewNodePrivate()
	m.there, err = node.New(node.Config{
		Key:      m.thereKey,
		Map:      m.netmap(thereName),
		UDPAddr:  loopback,
		MeshOnly: true,
		Serves:   []node.Serve{{Port: 80, Target: tcpAddr(m.service)}},
	})
	if err != nil {
		return err
	}
	cfg := node.Config{
		Key:      m.hereKey,
		Map:      m.netmap(hereName),
		UDPAddr:  loopback,
		MeshOnly: true,
		Token:    newToken(),
		Proxies:  []net.Addr{tcpAddr(loopback.String() + ":1080")},
	}
	if m.here, err = node.New(cfg); err != nil {
		cfg.Proxies = []net.Addr{tcpAddr(loopback.String() + ":0")} // somebody else has the usual port
		m.here, err = node.New(cfg)
	}
	return err
}

// netmap is the network map of one of the nodes. It holds disco keys and endpoints once both nodes run and introduce
// was called: until then there is only the relay.
func (m *demoMesh) netmap(of string) node.NetworkMap {
	here := node.Peer{Name: hereName, Key: m.hereKey.Public(), Addresses: single(hereAddr), Region: demoRegion}
	there := node.Peer{Name: thereName, Key: m.thereKey.Public(), Addresses: single(thereAddr), Region: demoRegion}
	self, peer, other := here, there, m.there
	if of == thereName {
		self, peer, other = there, here, m.here
	}
	if m.here != nil {
		peer.Disco = other.DiscoKey()
		peer.Endpoints = []netip.AddrPort{netip.AddrPortFrom(loopback, other.UDPPort())}
	}
	return node.NetworkMap{Name: self.Name, Addresses: self.Addresses, Peers: []node.Peer{peer}, Relays: m.relays(), Home: demoRegion}
}

func single(a netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())} }

func (m *demoMesh) relays() relay.Map {
	return relay.Map{Regions: map[int]*relay.Region{demoRegion: {
		RegionID: demoRegion, RegionCode: "demo", RegionName: "Demo",
		Nodes: []*relay.Node{{
			Name: "900a", RegionID: demoRegion, HostName: loopback.String(), CertName: m.pin,
			IPv6: "none", STUNPort: m.stunPort, DERPPort: m.relayAddr.(*net.TCPAddr).Port,
		}},
	}}}
}

// introduce gives each node the other's disco key and endpoint, as a coordination server would.
func (m *demoMesh) introduce() error {
	if err := m.here.SetMap(m.netmap(hereName)); err != nil {
		return err
	}
	return m.there.SetMap(m.netmap(thereName))
}

// relayed is how many packets the nodes have exchanged with the relay.
func (m *demoMesh) relayed() (n uint64) {
	for _, r := range append(m.here.Status().Relays, m.there.Status().Relays...) {
		n += r.RxPackets + r.TxPackets
	}
	return n
}

func (m *demoMesh) close() {
	for _, n := range []*node.Node{m.here, m.there} {
		if n != nil {
			n.Close()
		}
	}
	if m.web != nil {
		m.web.Close()
	}
	if m.srv != nil {
		m.srv.Close()
	}
	m.wg.Wait()
}
