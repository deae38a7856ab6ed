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

// discoLike returns a packet that relays take for disco, the only kind whose loss they report.
func discoLike(text string) []byte {
	return append(append([]byte("TS\xf0\x9f\x92\xac"), make([]byte, 56)...), text...)
}

// TestEveryCarriage proves that a client of either make gets through every front of a relay of
// either make: it logs in, is answered when it pings, and packets of all sizes pass both ways. The
// request headers show that fast start was used where it could be, and only there.
func TestEveryCarriage(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		for _, m := range clients {
			for _, c := range carriages {
				t.Run(m.name+" over "+string(c), func(t *testing.T) { testCarriage(t, h, m, c) })
			}
		}
	})
}

func testCarriage(t *testing.T, h *relayHost, m maker, c carriage) {
	other := theirs.join(t, h, fastStart)
	p := m.join(t, h, c) // which pings
	if got, want := h.fronts[c].lastAsked().Get("Derp-Fast-Start") == "1", c == fastStart; got != want {
		t.Errorf("asked for a fast start: %v, want %v", got, want)
	}
	out, in := carriageSizes(h, m, c)
	for _, size := range out {
		b := bytes.Repeat([]byte{byte(size)}, size)
		p.say(other.public, b)
		other.wantPacket(p.public, b)
	}
	for _, size := range in {
		b := bytes.Repeat([]byte{byte(size + 1)}, size)
		other.say(p.public, b)
		p.wantPacket(other.public, b)
	}
	if o, ok := p.derpClient.(ourClient); ok {
		want := map[carriage]relay.Transport{plainHTTP: relay.TransportPlain, webSocket: relay.TransportWebSocket}[c]
		if want == relay.TransportNone {
			want = relay.TransportNative
		}
		if got := o.Transport(); got != want {
			t.Errorf("transport %v, want %v", got, want)
		}
	}
}

// carriageSizes returns the sizes of packets to send and to receive. Their WebSockets take no
// message over 32 KiB, and neither their client nor their server splits what it writes (DERP
// specification, section 1.8).
func carriageSizes(h *relayHost, m maker, c carriage) (out, in []int) {
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

// TestTooLarge proves that both servers end the connection of a client that announces a packet over
// 64 KiB, and that neither client sends one.
func TestTooLarge(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		p := theirs.join(t, h, webSocket) // their HTTP client keeps the error to itself
		for _, p := range []*party{p, ours.join(t, h, fastStart)} {
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

// TestPin proves that their client trusts our self-signed certificate by the pin that we print for
// the map, sends the relay's name along, and refuses another certificate; our client does the same
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
				t.Errorf("%s took a certificate that is not the pinned one", m.name)
			}
			node := h.node(fastStart)
			node.HostName = "other.test" // the certificate is not for that name
			if err := connectNode(t, m, node); err == nil {
				t.Errorf("%s took a pinned certificate for another name", m.name)
			}
		}
	})
}

// connectNode connects to a relay as a map names it, and hangs up.
func connectNode(t *testing.T, m maker, node *relay.Node) error {
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

// TestRoots proves that their client accepts our certificate through its roots, without a pin, and
// that it recognizes our meta certificate in the chain; our client does the same with their relay.
func TestRoots(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		f := h.fronts[fastStart]
		c, err := derphttp.NewClient(theirPrivate(key.NewNodePrivate()), f.url(), tstest.WhileTestRunningLogger(t), netmon.NewStatic())
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
			t.Fatalf("TLS %x with %d certificates, want 1.3 and the meta certificate", state.Version, len(state.PeerCertificates))
		}
		if m, err := c.Recv(); err != nil || m != (derp.ServerInfoMessage{}) {
			t.Errorf("got %#v, %v, want a ServerInfo that asks for no limit", m, err)
		}
		if f.lastAsked().Get("Derp-Fast-Start") != "1" {
			t.Error("their client did not start fast")
		}
		ourClient, err := relay.Dial(t.Context(), f.url(), relay.ClientConfig{Key: key.NewNodePrivate(), Roots: h.roots})
		if err != nil {
			t.Fatal(err)
		}
		ourClient.Close()
		if c, err := relay.Dial(t.Context(), f.url(), relay.ClientConfig{Key: key.NewNodePrivate()}); err == nil {
			c.Close()
			t.Error("our client trusts a certificate that nobody vouches for")
		}
	})
}

// TestPeerGone proves that who got a packet is told when its sender leaves, and who sends a disco
// packet to nobody is told that too, three times at once and then once a second; other packets to
// nobody get no answer.
func TestPeerGone(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		for _, sender := range clients {
			for _, receiver := range clients {
				a, b := sender.join(t, h, fastStart), receiver.join(t, h, fastStart)
				a.say(b.public, []byte("here I am"))
				b.wantPacket(a.public, []byte("here I am"))
				a.leave()
				b.wantGone(a.public, reasonDisconnected)
				testNotHere(t, b)
			}
		}
	})
}

func testNotHere(t *testing.T, p *party) {
	t.Helper()
	nobody, silent := key.NewNodePrivate().Public(), key.NewNodePrivate().Public()
	start := time.Now()
	for i := range 6 {
		p.say(silent, fmt.Appendf(nil, "data %d", i))
		p.say(nobody, discoLike("call me"))
	}
	for range 3 { // one by one, for they come in no order with packets
		p.wantGone(nobody, reasonNotHere)
	}
	told := 3
	for _, e := range p.untilFence() {
		switch e.kind {
		case packetEvent:
			t.Errorf("%s: got a packet: %s", p.name, brief(e.data))
		case goneEvent:
			told++
		}
	}
	if most := 3 + int(time.Since(start).Seconds()); told > most {
		t.Errorf("%s: told %d times within %v, want at most %d", p.name, told, time.Since(start), most)
	}
}

// TestDuplicates proves that both servers treat two connections with one key alike, whatever client
// holds them: the newer gets the packets until the older speaks, the other one takes over when one
// leaves, and only the end of the last is told.
func TestDuplicates(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		for _, first := range clients {
			for _, second := range clients {
				testDuplicates(t, h, first, second)
			}
		}
	})
}

func testDuplicates(t *testing.T, h *relayHost, first, second maker) {
	t.Helper()
	k := key.NewNodePrivate()
	peer := theirs.join(t, h, fastStart)
	older := first.joinAs(t, h, fastStart, k)
	newer := second.joinAs(t, h, fastStart, k)
	peer.say(k.Public(), []byte("one"))
	newer.wantPacket(peer.public, []byte("one"))
	older.say(peer.public, []byte("I speak"))
	peer.wantPacket(k.Public(), []byte("I speak"))
	peer.say(k.Public(), []byte("two"))
	older.wantPacket(peer.public, []byte("two"))
	older.leave()
	// Nobody is told, so the peer asks until the relay has noticed.
	eventually(t, "the remaining connection takes over", func() bool {
		peer.say(k.Public(), []byte("three"))
		for len(newer.events) > 0 {
			if e := <-newer.events; e.kind == packetEvent && string(e.data) == "three" {
				return true
			}
		}
		return false
	})
	for len(peer.events) > 0 {
		if e := <-peer.events; e.kind == goneEvent {
			t.Error("the end of a connection that was not the last was told")
		}
	}
	newer.leave()
	peer.wantGone(k.Public(), reasonDisconnected)
}

// eventually waits for a state that nobody announces.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	eventuallyWithin(t, patience, what, cond)
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
			t.Fatalf("after %v: still not so: %s", limit, what)
		}
	}
}

// TestBulk proves that thousands of packets pass both ways at once, in order and unchanged, between
// all pairs of clients over the carriages that frame differently.
func TestBulk(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		exchange(t, ours.join(t, h, fastStart), theirs.join(t, h, fastStart), 2000, 1240)
		exchange(t, ours.join(t, h, fastStart), ours.join(t, h, normalStart), 1000, 1240)
		exchange(t, theirs.join(t, h, webSocket), ours.join(t, h, webSocket), 1000, 1240)
		exchange(t, theirs.join(t, h, plainHTTP), ours.join(t, h, plainHTTP), 200, 20_000)
	})
}
