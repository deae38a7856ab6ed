package democmd

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"ginnel/control"
	"ginnel/control/server"
	"ginnel/control/store"
	"ginnel/key"
	"ginnel/node"
	relayserver "ginnel/relay/server"
)

// Names in the demo's mesh.
const (
	hereName   = "here"
	thereName  = "there"
	demoDomain = "demo.internal"
	demoUser   = "you"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// demoMTU is what all nodes of a coordination server use.
const demoMTU = 1280

// demoRegion is in the range for private use (DERP specification, section 9.2).
const demoRegion = 900

// demoMesh is a mesh on loopback: a relay, a coordination server, a node that serves a web page and
// one that fetches it.
type demoMesh struct {
	version string // of this program

	srv       *relayserver.Server
	relayAddr net.Addr
	stunPort  int
	pin       string

	coord    *server.Server
	coordWeb *http.Server
	coordURL string
	authKey  string

	service string // host:port of the page
	web     *http.Server

	udp         gate // of both nodes
	here, there *node.Node
	wg          sync.WaitGroup
}

func (m *demoMesh) startRelay(dir string) error {
	srv, err := relayserver.New(relayserver.Config{Key: key.NewNodePrivate()})
	if err != nil {
		return err
	}
	m.srv = srv
	conf, pin, err := relayserver.SelfSignedTLS(dir, loopback.String())
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

// startControl starts the coordination server, and makes the key with which the nodes join.
func (m *demoMesh) startControl(ctx context.Context) error {
	ln, err := net.Listen("tcp", loopback.String()+":0")
	if err != nil {
		return err
	}
	m.coordURL = "http://" + ln.Addr().String()
	m.coord, err = server.New(server.Config{Store: store.NewMemory(), URL: m.coordURL, BaseDomain: demoDomain,
		DERPMap: m.relays()})
	if err != nil {
		ln.Close()
		return err
	}
	m.coordWeb = &http.Server{Handler: m.coord, ReadHeaderTimeout: demoTimeout}
	m.wg.Go(func() { m.coordWeb.Serve(ln) }) // until close
	if _, err := m.coord.CreateUser(ctx, demoUser, ""); err != nil {
		return err
	}
	k, err := m.coord.CreateAuthKey(ctx, server.AuthKeyRequest{User: demoUser, Reusable: true})
	m.authKey = k.Key
	return err
}

// join is the configuration of a node that joins with the key.
func (m *demoMesh) join(name string) node.Config {
	return node.Config{
		MTU:       demoMTU,
		UDPAddr:   loopback,
		ListenUDP: m.udp.listen,
		MeshOnly:  true,
		Token:     rand.Text(),
		Control:   &node.Control{URL: m.coordURL, AuthKey: m.authKey, Hostname: name},
		Version:   m.version,
	}
}

func (m *demoMesh) startThere() (err error) {
	cfg := m.join(thereName)
	cfg.Serves = []node.Serve{{Port: 80, Target: tcpAddr(m.service)}}
	m.there, err = node.New(cfg)
	return err
}

func (m *demoMesh) startHere() (err error) {
	cfg := m.join(hereName)
	cfg.Proxies = []net.Addr{tcpAddr(loopback.String() + ":1080")}
	if m.here, err = node.New(cfg); err != nil {
		cfg.Proxies = []net.Addr{tcpAddr(loopback.String() + ":0")} // somebody else has the usual port
		m.here, err = node.New(cfg)
	}
	return err
}

func (m *demoMesh) relays() control.DERPMap {
	return control.DERPMap{Regions: map[int]*control.DERPRegion{demoRegion: {
		RegionID: demoRegion, RegionCode: "demo", RegionName: "Demo",
		Nodes: []*control.DERPNode{{
			Name: "900a", RegionID: demoRegion, HostName: loopback.String(), CertName: m.pin,
			IPv6: "none", STUNPort: m.stunPort, DERPPort: m.relayAddr.(*net.TCPAddr).Port,
		}},
	}}}
}

// node is one of the nodes by its name.
func (m *demoMesh) node(name string) *node.Node {
	if name == hereName {
		return m.here
	}
	return m.there
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
	if m.coord != nil {
		m.coord.Close()
	}
	if m.coordWeb != nil {
		m.coordWeb.Close()
	}
	if m.srv != nil {
		m.srv.Close()
	}
	m.wg.Wait()
}
