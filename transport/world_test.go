package transport

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v3"
	"golang.zx2c4.com/wireguard/conn"

	"ginnel/internal/simnet"
	"ginnel/key"
)

const relayDelay = 30 * time.Millisecond

// world is an internet with a STUN server and a relay, and nodes in it.
type world struct {
	t      *testing.T
	net    *simnet.Net
	server *simnet.Host
	stun   []STUNServer

	mu    sync.Mutex
	nodes map[key.NodePublic]*testNode
	down  bool // the relay passes nothing
	wg    sync.WaitGroup
}

// testNode is a transport with a WireGuard that keeps what it receives.
type testNode struct {
	w    *world
	name string
	key  key.NodePublic
	host *simnet.Host
	c    *Conn

	mu       sync.Mutex
	received []arrival
}

// arrival is a packet that WireGuard was given.
type arrival struct {
	text    string
	relayed bool
}

// inWorld runs f in a bubble with a world that is torn down after it.
func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: simnet.New(1), nodes: make(map[key.NodePublic]*testNode)}
		w.server = w.net.NewHost(nil, netip.MustParseAddr("198.51.100.1"))
		pc, err := w.server.ListenUDP(3478)
		if err != nil {
			t.Fatal(err)
		}
		w.stun = []STUNServer{{Region: 1, Addr: netip.MustParseAddrPort("198.51.100.1:3478")}}
		w.wg.Go(func() { serveSTUN(pc) })
		f(t, w)
		for _, n := range w.nodes {
			n.c.Close()
			n.c.Close()
		}
		w.net.Close()
		w.wg.Wait()
	})
}

func serveSTUN(pc *simnet.Conn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		m := &stun.Message{Raw: buf[:n]}
		if m.Decode() != nil {
			continue
		}
		reply := stun.MustBuild(stun.NewTransactionIDSetter(m.TransactionID), stun.BindingSuccess,
			&stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())})
		pc.WriteToUDPAddrPort(reply.Raw, from)
	}
}

// relayTo is the Relay of one node: it passes packets on after a delay.
type relayTo struct {
	w    *world
	from key.NodePublic
}

func (r relayTo) Send(region int, to key.NodePublic, packets [][]byte) error {
	var copies [][]byte
	for _, p := range packets {
		copies = append(copies, slices.Clone(p))
	}
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	peer := r.w.nodes[to]
	if r.w.down || peer == nil {
		return errNoPath
	}
	r.w.wg.Add(1)
	time.AfterFunc(relayDelay, func() {
		defer r.w.wg.Done()
		peer.c.HandleRelayed(region, r.from, copies)
	})
	return nil
}

// node makes a node on host. It knows no peers yet.
func (w *world) node(name string, host *simnet.Host, change ...func(*Config)) *testNode {
	n := &testNode{w: w, name: name, key: key.NewNodePrivate().Public(), host: host}
	cfg := Config{
		NodeKey: n.key,
		Relay:   relayTo{w, n.key},
		Listen: func(network string, addr netip.AddrPort) (PacketConn, error) {
			if network != "udp4" {
				return nil, errors.New("IPv4 only")
			}
			return host.ListenUDP(addr.Port())
		},
		LocalAddrs: func() ([]netip.Addr, error) { return host.Addrs(), nil },
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	n.c = c
	if err := c.Open(n.receive); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.nodes[n.key] = n
	w.mu.Unlock()
	c.SetSTUN(w.stun)
	return n
}

// receive stands for WireGuard.
func (n *testNode) receive(messages [][]byte, from conn.Endpoint) {
	_, relayed := from.(*endpoint)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, b := range messages {
		if len(b) > 0 {
			n.received = append(n.received, arrival{string(b[min(dataHeader, len(b)):]), relayed})
		}
	}
}

// dataHeader stands before the text of a test packet, so that it looks like WireGuard's.
const dataHeader = 32

func packet(text string) []byte {
	b := make([]byte, dataHeader, dataHeader+len(text))
	b[0] = 4 // data
	return append(b, text...)
}

// send sends one packet as WireGuard would.
func (n *testNode) send(to *testNode, text string) {
	n.w.t.Helper()
	ep, err := n.c.ParseEndpoint(hex.EncodeToString(to.key[:]))
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.c.Send(0, [][]byte{packet(text)}, ep)
}

// stream sends a packet every 100 ms for d and returns what the receiver got of it: over UDP, over
// the relay, and how many it did not get at all.
func (n *testNode) stream(to *testNode, d time.Duration) (direct, relayed, lost int) {
	n.w.t.Helper()
	to.take()
	count := int(d / (100 * time.Millisecond))
	for i := range count {
		n.send(to, string(binary.BigEndian.AppendUint32(nil, uint32(i))))
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(2 * relayDelay)
	got := make(map[string]bool)
	for _, a := range to.take() {
		got[a.text] = true
		if a.relayed {
			relayed++
		} else {
			direct++
		}
	}
	return direct, relayed, count - len(got)
}

// take returns and forgets what arrived.
func (n *testNode) take() []arrival {
	n.mu.Lock()
	defer n.mu.Unlock()
	got := n.received
	n.received = nil
	return got
}

// introduce makes all nodes know each other, as a network map would.
func (w *world) introduce(nodes ...*testNode) {
	for _, n := range nodes {
		var peers []Peer
		for _, p := range nodes {
			if p != n {
				peers = append(peers, Peer{Key: p.key, Disco: p.c.DiscoKey(), Region: 1})
			}
		}
		n.c.SetPeers(peers)
	}
}

func (n *testNode) path(to *testNode) PeerStatus { return n.c.Status().Peers[to.key] }

// home is a host behind a NAT of its own.
func (w *world) home(i byte, kind simnet.NATKind) *simnet.Host {
	nat := w.net.NewNAT(simnet.NATConfig{Kind: kind, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, i})}})
	h := w.net.NewHost(nat, netip.AddrFrom4([4]byte{192, 168, i, 2}))
	h.SetLink(simnet.Link{Delay: 5 * time.Millisecond})
	return h
}
