package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// poolClient is a node's pool of relay connections, used as a client of region 1.
type poolClient struct {
	*relay.Pool
	t      *testing.T
	eventc chan event
	donec  chan struct{}
}

// joinPool starts a pool with home region 1 and waits until it is connected.
func joinPool(t *testing.T, m relay.Map, k key.NodePrivate) *testClient {
	t.Helper()
	c := &poolClient{t: t, eventc: make(chan event, 1<<14), donec: make(chan struct{})}
	c.Pool = relay.NewPool(relay.PoolConfig{Key: k, Receive: c.deliver, Log: testLog(t, "our pool")})
	p := newTestClient(t, "our pool", c, k.Public())
	c.SetMap(m)
	c.SetHome(1)
	c.waitConnected(1)
	return p
}

func (c *poolClient) deliver(region int, from key.NodePublic, packets [][]byte) {
	for _, b := range packets {
		c.eventc <- event{kind: packetEvent, peer: from, data: bytes.Clone(b)}
	}
}

func (c *poolClient) region(id int) relay.RegionStatus {
	for _, r := range c.Status().Regions {
		if r.Region == id {
			return r
		}
	}
	return relay.RegionStatus{}
}

func (c *poolClient) waitConnected(id int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), waitLimit)
	defer cancel()
	for range c.Watch(ctx) {
		if c.region(id).State == relay.RegionConnected {
			return
		}
	}
	c.t.Fatalf("region %d is %v: %v", id, c.region(id).State, c.region(id).Err)
}

func (c *poolClient) send(to key.NodePublic, packet []byte) error {
	return c.Send(1, to, [][]byte{packet})
}

func (c *poolClient) receive() ([]event, error) {
	select {
	case e := <-c.eventc:
		return []event{e}, nil
	case <-c.donec:
		return nil, net.ErrClosed
	}
}

func (c *poolClient) ping(context.Context) error { return nil }
func (c *poolClient) serverKey() key.NodePublic  { return key.NodePublic{} }

func (c *poolClient) close() {
	c.Close()
	select {
	case <-c.donec:
	default:
		close(c.donec)
	}
}

// TestPool proves that a node's pool connects in every mode to relays of both makes and carries
// packets in bulk.
func TestPool(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		for _, c := range []upgradeMode{fastStart, normalStart, webSocket} { // a map cannot describe plain HTTP
			p := joinPool(t, h.derpMap(c), key.NewNodePrivate())
			want := relay.TransportNative
			if c == webSocket {
				want = relay.TransportWebSocket
			}
			pool := p.derpClient.(*poolClient)
			if got := pool.region(1).Transport; got != want {
				t.Errorf("over %s: transport %v, want %v", c, got, want)
			}
			exchange(t, p, theirs.join(t, h, fastStart), 500, 1240)
		}
	})
}

// TestPoolFastStartRefused proves that a pool falls back to WebSocket if the relay's own
// certificate is presented but a middlebox still refuses the upgrade. With fast start, the pool
// learns this only after it has sent its login.
func TestPoolFastStartRefused(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		h.fronts[fastStart].refuseNative()
		p := joinPool(t, h.derpMap(fastStart), key.NewNodePrivate())
		if got := p.derpClient.(*poolClient).region(1).Transport; got != relay.TransportWebSocket {
			t.Errorf("transport %v, want %v", got, relay.TransportWebSocket)
		}
		exchange(t, p, theirs.join(t, h, normalStart), 100, 1240)
	})
}

// homes returns how many clients have told their relay that it is their home.
func homes(t *testing.T, h *relayHost) (n int) {
	t.Helper()
	var vars struct {
		Homes int `json:"gauge_current_home_connections"`
	}
	if err := json.Unmarshal([]byte(h.server.(theirRelay).ExpVar(false).String()), &vars); err != nil {
		t.Fatal(err)
	}
	return vars.Homes
}

// TestPoolHome proves that their relays count a pool as at home where it says so, when it connects
// and when it changes its home.
func TestPoolHome(t *testing.T) {
	t.Parallel()
	first, second := startTheirRelay(t, relayserver.Config{}), startTheirRelay(t, relayserver.Config{})
	p := joinPool(t, twoRegions(first, second), key.NewNodePrivate())
	eventually(t, "the first relay is the home", func() bool { return homes(t, first) == 1 })
	p.derpClient.(*poolClient).SetHome(2)
	eventually(t, "the second relay is the home", func() bool { return homes(t, first) == 0 && homes(t, second) == 1 })
}

// twoRegions returns a map with two regions of one relay each.
func twoRegions(first, second *relayHost) relay.Map {
	m := first.derpMap(fastStart)
	node := second.node(fastStart)
	node.Name, node.RegionID = "2a", 2
	m.Regions[2] = &relay.Region{RegionID: 2, RegionCode: "test2", Nodes: []*relay.Node{node}}
	return m
}

// TestPoolRoute proves that a pool sends to a peer with an unknown home through the region that it
// last heard the peer in, and forgets that region when their relay sends PeerGone.
func TestPoolRoute(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		pool := joinPool(t, h.derpMap(fastStart), key.NewNodePrivate())
		c := pool.derpClient.(*poolClient)
		peer := theirs.join(t, h, fastStart)
		packet := [][]byte{[]byte("answer")}
		if err := c.Send(0, peer.public, packet); !errors.Is(err, relay.ErrUnknownRegion) {
			t.Fatalf("sending to a peer that was not heard: %v, want %v", err, relay.ErrUnknownRegion)
		}
		peer.mustSend(pool.public, []byte("hello"))
		pool.wantPacket(peer.public, []byte("hello"))
		if err := c.Send(0, peer.public, packet); err != nil {
			t.Fatal(err)
		}
		peer.wantPacket(pool.public, packet[0])
		peer.leave()
		eventually(t, "the pool has forgotten the peer's region", func() bool {
			return errors.Is(c.Send(0, peer.public, packet), relay.ErrUnknownRegion)
		})
	})
}

// TestPoolRestart proves that a pool reconnects to a restarted relay, with the same key and with
// another one.
func TestPoolRestart(t *testing.T) {
	for _, m := range []struct {
		name  string
		start func(testing.TB, relayserver.Config) *relayHost
		again func(testing.TB, relayserver.Config) derpServer
	}{
		{"our relay", startOurRelay, func(tb testing.TB, c relayserver.Config) derpServer { return newOurRelay(tb, c) }},
		{"their relay", startTheirRelay, func(tb testing.TB, c relayserver.Config) derpServer {
			return newTheirRelay(tb, c)
		}},
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			k := key.NewNodePrivate()
			h := m.start(t, relayserver.Config{Key: k})
			p := joinPool(t, h.derpMap(fastStart), key.NewNodePrivate())
			for _, next := range []key.NodePrivate{k, key.NewNodePrivate()} {
				h.stop()
				eventually(t, "the pool has noticed", func() bool {
					return p.derpClient.(*poolClient).region(1).State != relay.RegionConnected
				})
				h.serve(t, m.again(t, relayserver.Config{Key: next}))
				p.derpClient.(*poolClient).waitConnected(1)
				exchange(t, p, theirs.join(t, h, fastStart), 100, 1240)
			}
		})
	}
}

// TestPoolNetworkChanged proves that a connection survives a network change if their relay answers
// the ping by which the pool checks it.
func TestPoolNetworkChanged(t *testing.T) {
	t.Parallel()
	h := startTheirRelay(t, relayserver.Config{})
	p := joinPool(t, h.derpMap(fastStart), key.NewNodePrivate())
	pings := func() int {
		var vars struct {
			Got int `json:"got_ping"`
		}
		json.Unmarshal([]byte(h.server.(theirRelay).ExpVar(false).String()), &vars)
		return vars.Got
	}
	before, asked := pings(), h.fronts[fastStart].timesAsked()
	c := p.derpClient.(*poolClient)
	c.NetworkChanged()
	eventually(t, "the relay was pinged", func() bool { return pings() > before })
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // longer than a pool waits for an answer
	defer cancel()
	for range c.Watch(ctx) {
		if got := c.region(1).State; got != relay.RegionConnected {
			t.Fatalf("the connection is %v", got)
		}
	}
	exchange(t, p, theirs.join(t, h, normalStart), 100, 1240)
	if got := h.fronts[fastStart].timesAsked(); got != asked {
		t.Errorf("%d connections, want %d: the pool closed a working connection", got, asked)
	}
}
