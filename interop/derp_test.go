package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest"

	"ginnel/key"
	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// discoLike returns a packet that relays take for a disco packet. Relays report only the loss of
// disco packets.
func discoLike(text string) []byte {
	return append(append([]byte("TS\xf0\x9f\x92\xac"), make([]byte, 56)...), text...)
}

// TestUpgradeModes proves that both clients connect to both relays in every mode: they log in, get
// answers to pings, and exchange packets of all sizes. The request headers show that fast start was
// used exactly where it is possible.
func TestUpgradeModes(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		for _, m := range clients {
			for _, c := range upgradeModes {
				t.Run(m.name+" over "+string(c), func(t *testing.T) { testUpgradeMode(t, h, m, c) })
			}
		}
	})
}

func testUpgradeMode(t *testing.T, h *relayHost, m clientKind, c upgradeMode) {
	other := theirs.join(t, h, fastStart)
	p := m.join(t, h, c) // and pings the relay
	if got, want := h.fronts[c].lastAsked().Get("Derp-Fast-Start") == "1", c == fastStart; got != want {
		t.Errorf("asked for a fast start: %v, want %v", got, want)
	}
	out, in := packetSizes(h, m, c)
	for _, size := range out {
		b := bytes.Repeat([]byte{byte(size)}, size)
		p.mustSend(other.public, b)
		other.wantPacket(p.public, b)
	}
	for _, size := range in {
		b := bytes.Repeat([]byte{byte(size + 1)}, size)
		other.mustSend(p.public, b)
		p.wantPacket(other.public, b)
	}
	if o, ok := p.derpClient.(ourClient); ok {
		want := map[upgradeMode]relay.Transport{plainHTTP: relay.TransportPlain, webSocket: relay.TransportWebSocket}[c]
		if want == relay.TransportNone {
			want = relay.TransportNative
		}
		if got := o.Transport(); got != want {
			t.Errorf("transport %v, want %v", got, want)
		}
	}
}

// packetSizes returns the sizes of the packets to send and to receive. Their WebSockets accept no
// message over 32 KiB, and neither their client nor their server splits a write (DERP
// specification, section 1.8).
func packetSizes(h *relayHost, m clientKind, c upgradeMode) (out, in []int) {
	small, all := []int{0, 1, 32, 1400, 30_000}, []int{0, 1, 32, 1400, 30_000, relay.MaxPacket}
	out, in = all, all
	if c == webSocket && m.name == theirs.name {
		out = small
		if _, ok := h.server.(theirRelay); ok {
			in = small
		}
	}
	return out, in
}

// TestTooLarge proves that both servers close the connection of a client that announces a packet
// over 64 KiB, and that neither client sends one.
func TestTooLarge(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		p := theirs.join(t, h, webSocket) // their HTTP client hides the error
		for _, p := range []*testClient{p, ours.join(t, h, fastStart)} {
			if err := p.send(p.public, make([]byte, relay.MaxPacket+1)); err == nil {
				t.Errorf("%s sent more than 64 KiB", p.name)
			}
		}
		conn := p.derpClient.(*theirWebSocketClient).conn
		conn.Write(binary.BigEndian.AppendUint32([]byte{0x04}, 32+relay.MaxPacket+1))
		conn.Write(p.public[:])
		p.next(endEvent)
	})
}

// TestPin proves that their client accepts our self-signed certificate by the pin that we print for
// the map, sends the relay's name as SNI, and refuses another certificate. Our client does the same
// with their relay.
func TestPin(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		if !strings.HasPrefix(h.pin, "sha256-raw:") {
			t.Fatalf("pin is %q", h.pin)
		}
		for _, m := range clients {
			m.join(t, h, fastStart)
			wrong := *h
			wrong.pin = "sha256-raw:" + strings.Repeat("0", 64)
			if _, err := m.connect(t.Context(), t, &wrong, fastStart, key.NewNodePrivate()); err == nil {
				t.Errorf("%s accepted a certificate that is not the pinned one", m.name)
			}
			node := h.node(fastStart)
			node.HostName = "other.test" // a name that the certificate does not have
			if err := connectNode(t, m, node); err == nil {
				t.Errorf("%s accepted a pinned certificate for another name", m.name)
			}
		}
	})
}

// connectNode connects to a relay as a map describes it, and closes the connection.
func connectNode(t *testing.T, m clientKind, node *relay.Node) error {
	region := &relay.Region{RegionID: 1, Nodes: []*relay.Node{node}}
	k := key.NewNodePrivate()
	if m.name == ours.name {
		c, err := relay.DialRegion(t.Context(), region, relay.ClientConfig{Key: k})
		if err == nil {
			c.Close()
		}
		return err
	}
	their := theirMap(t, relay.Map{Regions: map[int]*relay.Region{1: region}}).Regions[1]
	c := derphttp.NewRegionClient(theirPrivate(k), tstest.WhileTestRunningLogger(t), netmon.NewStatic(),
		func() *tailcfg.DERPRegion { return their })
	defer c.Close()
	return c.Connect(t.Context())
}

// TestRoots proves that their client accepts our certificate through its root certificates, without
// a pin, and recognizes our meta certificate in the chain. Our client does the same with their
// relay.
func TestRoots(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		f := h.fronts[fastStart]
		c, err := derphttp.NewClient(theirPrivate(key.NewNodePrivate()), f.url(), tstest.WhileTestRunningLogger(t),
			netmon.NewStatic())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.TLSConfig = &tls.Config{RootCAs: h.roots}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		state, ok := c.TLSConnectionState()
		if !ok || state.Version != tls.VersionTLS13 || len(state.PeerCertificates) != 2 {
			t.Fatalf("TLS %x with %d certificates, want 1.3 and the meta certificate", state.Version,
				len(state.PeerCertificates))
		}
		if m, err := c.Recv(); err != nil || m != (derp.ServerInfoMessage{}) {
			t.Errorf("got %#v, %v, want a ServerInfo that asks for no limit", m, err)
		}
		if f.lastAsked().Get("Derp-Fast-Start") != "1" {
			t.Error("their client did not use fast start")
		}
		ourClient, err := relay.Dial(t.Context(), f.url(), relay.ClientConfig{Key: key.NewNodePrivate(), Roots: h.roots})
		if err != nil {
			t.Fatal(err)
		}
		ourClient.Close()
		if c, err := relay.Dial(t.Context(), f.url(), relay.ClientConfig{Key: key.NewNodePrivate()}); err == nil {
			c.Close()
			t.Error("our client accepts a certificate that no root has signed")
		}
	})
}

// TestPeerGone proves when relays send PeerGone: to a client that has received a packet from a peer
// that disconnects, and to a client that sends a disco packet to an unknown key. The latter is
// limited to a burst of three and then one a second. Other packets to unknown keys get no answer.
func TestPeerGone(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		for _, sender := range clients {
			for _, receiver := range clients {
				a, b := sender.join(t, h, fastStart), receiver.join(t, h, fastStart)
				a.mustSend(b.public, []byte("here I am"))
				b.wantPacket(a.public, []byte("here I am"))
				a.leave()
				b.wantGone(a.public, reasonDisconnected)
				testNotHere(t, b)
			}
		}
	})
}

func testNotHere(t *testing.T, p *testClient) {
	t.Helper()
	nobody, silent := key.NewNodePrivate().Public(), key.NewNodePrivate().Public()
	start := time.Now()
	for i := range 6 {
		p.mustSend(silent, fmt.Appendf(nil, "data %d", i))
		p.mustSend(nobody, discoLike("call me"))
	}
	for range 3 { // one by one, because their order relative to packets is not fixed
		p.wantGone(nobody, reasonNotHere)
	}
	gone := 3
	for _, e := range p.untilFence() {
		switch e.kind {
		case packetEvent:
			t.Errorf("%s: got a packet: %s", p.name, excerpt(e.data))
		case goneEvent:
			gone++
		}
	}
	if most := 3 + int(time.Since(start).Seconds()); gone > most {
		t.Errorf("%s: %d PeerGone within %v, want at most %d", p.name, gone, time.Since(start), most)
	}
}

// TestDuplicates proves that both servers handle two connections with one key alike, with either
// client on either connection. The newer one gets the packets until the older one sends. When one
// closes, the other takes over. PeerGone is sent only when the last one closes.
func TestDuplicates(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		for _, first := range clients {
			for _, second := range clients {
				testDuplicates(t, h, first, second)
			}
		}
	})
}

func testDuplicates(t *testing.T, h *relayHost, first, second clientKind) {
	t.Helper()
	k := key.NewNodePrivate()
	peer := theirs.join(t, h, fastStart)
	older := first.joinAs(t, h, fastStart, k)
	newer := second.joinAs(t, h, fastStart, k)
	peer.mustSend(k.Public(), []byte("one"))
	newer.wantPacket(peer.public, []byte("one"))
	older.mustSend(peer.public, []byte("I speak"))
	peer.wantPacket(k.Public(), []byte("I speak"))
	peer.mustSend(k.Public(), []byte("two"))
	older.wantPacket(peer.public, []byte("two"))
	older.leave()
	// The peer gets no notice, so it sends until the relay has noticed the closed connection.
	eventually(t, "the remaining connection takes over", func() bool {
		peer.mustSend(k.Public(), []byte("three"))
		for len(newer.events) > 0 {
			if e := <-newer.events; e.kind == packetEvent && string(e.data) == "three" {
				return true
			}
		}
		return false
	})
	for len(peer.events) > 0 {
		if e := <-peer.events; e.kind == goneEvent {
			t.Error("PeerGone was sent although another connection of the key is open")
		}
	}
	newer.leave()
	peer.wantGone(k.Public(), reasonDisconnected)
}

// eventually polls until cond reports true.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	eventuallyWithin(t, waitLimit, what, cond)
}

func eventuallyWithin(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// TestBulk proves that thousands of packets pass in both directions at once, in order and
// unchanged, between all pairs of clients, in the modes that frame differently.
func TestBulk(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		exchange(t, ours.join(t, h, fastStart), theirs.join(t, h, fastStart), 2000, 1240)
		exchange(t, ours.join(t, h, fastStart), ours.join(t, h, normalStart), 1000, 1240)
		exchange(t, theirs.join(t, h, webSocket), ours.join(t, h, webSocket), 1000, 1240)
		exchange(t, theirs.join(t, h, plainHTTP), ours.join(t, h, plainHTTP), 200, 20_000)
	})
}
