package transport

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v3"
	"golang.zx2c4.com/wireguard/conn"

	"ginnel/internal/disco"
	"ginnel/internal/key"
	"ginnel/internal/simnet"
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
	wg       sync.WaitGroup
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
			n.c.Bind().Close()
			n.wg.Wait()
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
	fns, _, err := c.Bind().Open(0)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, fn := range fns {
		n.wg.Go(func() { n.receive(fn) })
	}
	w.mu.Lock()
	w.nodes[n.key] = n
	w.mu.Unlock()
	c.SetSTUN(w.stun)
	return n
}

// receive stands for WireGuard.
func (n *testNode) receive(fn conn.ReceiveFunc) {
	bufs, sizes, eps := make([][]byte, batchSize), make([]int, batchSize), make([]conn.Endpoint, batchSize)
	for i := range bufs {
		bufs[i] = make([]byte, 2000)
	}
	for {
		m, err := fn(bufs, sizes, eps)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				n.w.t.Errorf("%s: receive function: %v", n.name, err)
			}
			return
		}
		n.mu.Lock()
		for i := range m {
			if sizes[i] > 0 {
				_, relayed := eps[i].(*endpoint)
				n.received = append(n.received, arrival{string(bufs[i][min(dataHeader, sizes[i]):sizes[i]]), relayed})
			}
		}
		n.mu.Unlock()
	}
}

// dataHeader stands before the text of a test packet, so that it looks like WireGuard's.
const dataHeader = keepaliveLen

func packet(text string) []byte {
	b := make([]byte, dataHeader, dataHeader+len(text))
	b[0] = wireGuardData
	return append(b, text...)
}

// send sends one packet as WireGuard would.
func (n *testNode) send(to *testNode, text string) {
	n.w.t.Helper()
	ep, err := n.c.Bind().ParseEndpoint(hex.EncodeToString(to.key[:]))
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.c.Bind().Send([][]byte{packet(text)}, ep)
}

// stream sends a packet every 100 ms for d and returns what the receiver got of it: over UDP, over the relay, and how
// many it did not get at all.
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

// Two nodes that know only each other's keys and relay begin over the relay at once and move to a direct path, through
// any NAT that lets them.
func TestRelayThenDirect(t *testing.T) {
	for _, c := range []struct {
		name   string
		a, b   simnet.NATKind
		direct bool
	}{
		{"public", simnet.None, simnet.None, true},
		{"easy and public", simnet.Easy, simnet.None, true},
		{"easy and easy", simnet.Easy, simnet.Easy, true},
		{"hard and public", simnet.Hard, simnet.None, true},
		{"hard and hard", simnet.Hard, simnet.Hard, false},
		{"blocked", simnet.Blocked, simnet.Easy, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.node("a", w.home(1, c.a)), w.node("b", w.home(2, c.b))
				w.introduce(a, b)
				a.send(b, "first")
				time.Sleep(2 * relayDelay)
				if got := b.take(); len(got) != 1 || got[0] != (arrival{"first", true}) {
					t.Fatalf("the first packet: got %+v, want it over the relay at once", got)
				}
				b.send(a, "answer") // as WireGuard's handshake would
				time.Sleep(time.Second)
				direct, relayed, lost := a.stream(b, 10*time.Second)
				if lost > 0 {
					t.Errorf("%d packets lost", lost)
				}
				if c.direct && (relayed > 0 || direct != 100) {
					t.Errorf("%d packets went directly and %d over the relay, want all directly", direct, relayed)
				}
				if !c.direct && (direct > 0 || relayed != 100) {
					t.Errorf("%d packets went directly and %d over the relay, want all over the relay", direct, relayed)
				}
				if p := a.path(b); p.Trusted != c.direct || c.direct && p.Latency == 0 {
					t.Errorf("path %+v", p)
				}
			})
		})
	}
}

// Nodes behind one NAT that does not hairpin find each other by their local addresses.
func TestSameNetwork(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		nat := w.net.NewNAT(simnet.NATConfig{Kind: simnet.Easy, Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.1")}})
		a := w.node("a", w.net.NewHost(nat, netip.MustParseAddr("192.168.1.2")))
		b := w.node("b", w.net.NewHost(nat, netip.MustParseAddr("192.168.1.3")))
		w.introduce(a, b)
		a.stream(b, 3*time.Second)
		if p := a.path(b); !p.Trusted || p.Direct.Addr() != netip.MustParseAddr("192.168.1.3") {
			t.Errorf("path %+v", p)
		}
	})
}

// Without any STUN server the addresses of the interfaces do.
func TestWithoutSTUN(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.stun = nil
		a, b := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None))
		w.introduce(a, b)
		a.stream(b, 3*time.Second)
		if p := a.path(b); !p.Trusted {
			t.Errorf("path %+v", p)
		}
	})
}

// When UDP is cut, packets go over the relay as well after at most a heartbeat and a second, and are back on UDP soon
// after it is restored.
func TestFallBack(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
		w.introduce(a, b)
		a.stream(b, 3*time.Second)
		if p := a.path(b); !p.Trusted {
			t.Fatalf("no direct path: %+v", p)
		}
		w.net.Cut(a.host, b.host)
		w.net.Cut(b.host, a.host)
		_, relayed, lost := a.stream(b, 20*time.Second)
		if limit := int((heartbeatInterval + suspectAfter + time.Second) / (100 * time.Millisecond)); lost > limit {
			t.Errorf("%d packets lost after the cut, want at most %d", lost, limit)
		}
		if relayed < 150 {
			t.Errorf("%d of 200 packets went over the relay", relayed)
		}
		if p := a.path(b); p.Trusted || p.Direct.IsValid() {
			t.Errorf("path %+v after 20 s without UDP", p)
		}
		w.net.Restore(a.host, b.host)
		w.net.Restore(b.host, a.host)
		if _, _, lost := a.stream(b, 15*time.Second); lost > 0 {
			t.Errorf("%d packets lost on the way back", lost)
		}
		if _, relayed, _ := a.stream(b, time.Second); relayed > 0 {
			t.Errorf("%d packets still went over the relay", relayed)
		}
	})
}

// A node that moves to another network is found there: by its own word, or by the peer's search.
func TestRoaming(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
		w.introduce(a, b)
		a.stream(b, 3*time.Second)
		before := a.path(b).Direct
		nat := w.net.NewNAT(simnet.NATConfig{Kind: simnet.Easy, Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.99")}})
		b.host.Move(nat, netip.MustParseAddr("10.9.9.9"))
		b.c.NetworkChanged()
		b.send(a, "here")
		a.stream(b, 10*time.Second)
		p := a.path(b)
		if !p.Trusted || p.Direct == before || p.Direct.Addr() != netip.MustParseAddr("203.0.113.99") {
			t.Errorf("path %+v after moving, before it was %v", p, before)
		}
		if _, relayed, lost := a.stream(b, time.Second); relayed > 0 || lost > 0 {
			t.Errorf("%d packets over the relay and %d lost", relayed, lost)
		}
	})
}

// A peer that restarted has another disco key; traffic goes over the relay until the map says so, and directly after.
func TestRestartedPeer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
		w.introduce(a, b)
		a.stream(b, 3*time.Second)
		old := b.key
		b.c.Close()
		b.c.Bind().Close()
		b.wg.Wait()
		again := w.node("b", b.host, func(c *Config) { c.NodeKey = old; c.Relay = relayTo{w, old} })
		again.key = old
		w.mu.Lock()
		w.nodes[old] = again
		w.mu.Unlock()
		w.introduce(a, again)
		if _, _, lost := a.stream(again, 3*time.Second); lost > 0 {
			t.Errorf("%d packets lost", lost)
		}
		if p := a.path(again); !p.Trusted {
			t.Errorf("path %+v", p)
		}
	})
}

// "Idle": no heartbeats, no STUN, nothing.
func TestIdleIsSilent(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
		w.introduce(a, b)
		a.stream(b, 3*time.Second)
		time.Sleep(5 * time.Minute)
		before := w.net.Stats().Sent
		time.Sleep(time.Hour)
		if sent := w.net.Stats().Sent - before; sent != 0 {
			t.Errorf("%d datagrams in an hour of idleness", sent)
		}
		if _, _, lost := a.stream(b, 3*time.Second); lost > 0 {
			t.Errorf("%d packets lost after the pause", lost)
		}
	})
}

func TestPing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
		w.introduce(a, b)
		r, err := a.c.Ping(t.Context(), b.key)
		if err != nil || r.Addr.IsValid() || r.Region != 1 || r.Latency != 2*relayDelay {
			t.Errorf("first ping: %+v, %v, want over the relay", r, err)
		}
		time.Sleep(2 * time.Second)
		r, err = a.c.Ping(t.Context(), b.key)
		if err != nil || !r.Addr.IsValid() || r.Latency != 20*time.Millisecond {
			t.Errorf("second ping: %+v, %v, want direct in 20 ms", r, err)
		}
		if _, err := a.c.Ping(t.Context(), key.NewNodePrivate().Public()); !errors.Is(err, ErrUnknownPeer) {
			t.Errorf("ping of a stranger: %v", err)
		}
		b.c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.c.Ping(ctx, b.key); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ping of a dead peer: %v", err)
		}
	})
}

// What does not belong here is dropped and counted, and disturbs nothing.
func TestGarbage(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None))
		w.introduce(a, b)
		time.Sleep(time.Second)
		stranger, err := w.server.ListenUDP(0)
		if err != nil {
			t.Fatal(err)
		}
		to := netip.AddrPortFrom(a.host.Addrs()[0], a.c.LocalPort())
		evil := key.NewDiscoPrivate()
		shared, err := evil.Shared(a.c.DiscoKey())
		if err != nil {
			t.Fatal(err)
		}
		ping := disco.Seal(nil, evil.Public(), shared, &disco.Ping{TxID: disco.TxID{1}})
		for range 10000 {
			stranger.WriteToUDPAddrPort(ping, to)
			time.Sleep(time.Millisecond)
		}
		forged := slices.Clone(ping)
		bd := b.c.DiscoKey()
		copy(forged[6:], bd[:])
		stranger.WriteToUDPAddrPort(forged, to)
		stranger.WriteToUDPAddrPort(unhex(t, "00007a120a0b0c00"), to)
		stranger.WriteToUDPAddrPort([]byte{7}, to)
		time.Sleep(time.Second)
		d := a.c.Status().Dropped
		if d["disco_unknown"] != 10000 || d["disco_bad"] != 1 || d["peer_relay"] != 1 {
			t.Errorf("dropped %v", d)
		}
		if got := a.take(); len(got) != 1 { // the byte that some senders append, which WireGuard drops
			t.Errorf("WireGuard was given %+v", got)
		}
		if _, _, lost := b.stream(a, time.Second); lost > 0 {
			t.Errorf("%d packets lost", lost)
		}
	})
}

// A CallMeMaybe counts only if the peer's own relay brought it.
func TestForgedCallMeMaybe(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, c := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None)), w.node("c", w.home(3, simnet.None))
		w.introduce(a, b, c)
		time.Sleep(time.Second)
		var shared *key.Shared
		b.c.call(func(l *loop) { shared = l.sharedKey(l.peers[a.key]) })
		call := disco.Seal(nil, b.c.DiscoKey(), shared, &disco.CallMeMaybe{Endpoints: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.66:66")}})
		before := w.net.Stats().NoRoute
		a.c.HandleRelayed(1, c.key, [][]byte{call})                                                  // sealed by b, brought as c's
		b.c.sock4.writeBatch([][]byte{call}, netip.AddrPortFrom(a.host.Addrs()[0], a.c.LocalPort())) // over UDP
		time.Sleep(time.Second)
		if d := a.c.Status().Dropped; d["disco_bad"] != 2 {
			t.Errorf("dropped %v", d)
		}
		if n := w.net.Stats().NoRoute - before; n != 0 {
			t.Errorf("%d pings to the forged endpoint", n)
		}
		a.c.HandleRelayed(1, b.key, [][]byte{call})
		time.Sleep(time.Second)
		if n := w.net.Stats().NoRoute - before; n != 1 {
			t.Errorf("%d pings to the endpoint of a good call, want 1", n)
		}
	})
}

// WireGuard may close and reopen its bind; after the Conn's Close everything says so.
func TestBindLifetime(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None))
		w.introduce(a, b)
		bind := b.c.Bind()
		if _, _, err := bind.Open(0); !errors.Is(err, conn.ErrBindAlreadyOpen) {
			t.Errorf("second Open: %v", err)
		}
		bind.Close()
		bind.Close()
		b.wg.Wait()
		a.send(b, "nobody listens")
		time.Sleep(time.Second)
		fns, _, err := bind.Open(0)
		if err != nil {
			t.Fatal(err)
		}
		for _, fn := range fns {
			b.wg.Go(func() { b.receive(fn) })
		}
		if _, _, lost := a.stream(b, time.Second); lost > 0 {
			t.Errorf("%d packets lost after reopening", lost)
		}
		b.c.Close()
		b.c.Close()
		b.wg.Wait()
		bind.Close()
		if _, _, err := bind.Open(0); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Open after Close: %v", err)
		}
		b.c.SetPeers(nil)
		b.c.NetworkChanged()
		if s := b.c.Status(); len(s.Peers) != 0 {
			t.Errorf("status after Close: %+v", s)
		}
	})
}

func TestParseEndpoint(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None))
		w.introduce(a, b)
		bind := a.c.Bind()
		ep, err := bind.ParseEndpoint(hex.EncodeToString(b.key[:]))
		if err != nil {
			t.Fatal(err)
		}
		again, _ := bind.ParseEndpoint(ep.DstToString())
		if again != ep || !ep.DstIP().IsPrivate() || len(ep.DstToBytes()) != key.Size {
			t.Errorf("endpoint %v, again %v", ep, again)
		}
		plain, err := bind.ParseEndpoint("[::ffff:192.0.2.1]:51820")
		if err != nil || plain.DstToString() != "192.0.2.1:51820" {
			t.Errorf("address endpoint %v, %v", plain, err)
		}
		for _, bad := range []string{"", "name:51820", "192.0.2.1", hex.EncodeToString(make([]byte, 32)), "zz" + hex.EncodeToString(b.key[1:])} {
			if _, err := bind.ParseEndpoint(bad); err == nil {
				t.Errorf("ParseEndpoint(%q) succeeded", bad)
			}
		}
	})
}

// Watch shows the change from relay to direct without being asked again.
func TestWatch(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
		w.introduce(a, b)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		a.send(b, "go")
		seen := false
		for s := range a.c.Watch(ctx) {
			if s.Peers[b.key].Trusted {
				seen = true
				break
			}
		}
		if !seen {
			t.Error("the direct path was never shown")
		}
		for range a.c.Watch(t.Context()) {
			a.c.Close() // ends the iteration
		}
	})
}

// Sent is told of data, not of handshakes and keepalives.
func TestSentCountsData(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		total := 0
		b := w.node("b", w.home(2, simnet.None))
		a := w.node("a", w.home(1, simnet.None), func(c *Config) { c.Sent = func(n int) { total += n } })
		w.introduce(a, b)
		ep, err := a.c.Bind().ParseEndpoint(hex.EncodeToString(b.key[:]))
		if err != nil {
			t.Fatal(err)
		}
		keepalive, handshake := make([]byte, keepaliveLen), make([]byte, 148)
		keepalive[0], handshake[0] = wireGuardData, 1
		a.c.Bind().Send([][]byte{packet("x"), keepalive, packet("y")}, ep)
		a.c.Bind().Send([][]byte{handshake}, ep)
		if total != 2 {
			t.Errorf("%d packets reported, want 2", total)
		}
	})
}
