package node

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/control/server"
	"ginnel/relay"
)

// Without UDP, relays are measured by HTTPS at once and every five minutes. A home that does not
// answer is left after eight seconds of silence, and not more often than every 30 s.
func TestRelayMeterDue(t *testing.T) {
	start := time.Unix(1000, 0)
	after := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	failing := relay.RegionStatus{Region: 1, State: relay.RegionWaiting, Err: errors.New("refused")}
	heard := failing
	heard.LastHeard = after(60)
	fine := relay.RegionStatus{Region: 1, State: relay.RegionConnected}
	for what, c := range map[string]struct {
		meter relayMeter
		home  relay.RegionStatus
		want  time.Time
	}{
		"UDP passes":                 {relayMeter{homeFrom: start}, fine, time.Time{}},
		"no UDP":                     {relayMeter{homeFrom: start, noUDP: true}, fine, start},
		"no UDP, measured":           {relayMeter{homeFrom: start, noUDP: true, measured: after(10)}, fine, after(310)},
		"home fails":                 {relayMeter{homeFrom: start}, failing, after(8)},
		"home fails after it worked": {relayMeter{homeFrom: start}, heard, after(68)},
		"home fails still":           {relayMeter{homeFrom: start, measured: after(8)}, failing, after(38)},
		"home fails and no UDP":      {relayMeter{homeFrom: start, noUDP: true, measured: after(50)}, heard, after(80)},
		"no home yet":                {relayMeter{homeFrom: start}, relay.RegionStatus{}, time.Time{}},
		"home connects, for the first": {relayMeter{homeFrom: start},
			relay.RegionStatus{Region: 1, State: relay.RegionConnecting}, time.Time{}},
	} {
		if got := c.meter.due(c.home); !got.Equal(c.want) {
			t.Errorf("%s: due at %v, want %v", what, got, c.want)
		}
	}
}

// withDeadRegion adds a region to the network whose relay cannot be reached, although its STUN
// server answers first.
func withDeadRegion(t *testing.T, n *network) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // nobody listens there now
	m := derpMap(&n.relays)
	live := m.Regions[region].Nodes[0]
	m.Regions[region+1] = &control.DERPRegion{RegionID: region + 1, RegionCode: "dead", Nodes: []*control.DERPNode{{
		Name: "901a", RegionID: region + 1, HostName: "127.0.0.1", CertName: live.CertName, IPv6: "none",
		DERPPort: ln.Addr().(*net.TCPAddr).Port, STUNPort: live.STUNPort,
	}}}
	if err := n.srv.SetDERPMap(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// A member leaves a home whose relay is dead although its STUN server answers, and does not return
// soon. A member without UDP finds the relay that answers by HTTPS.
func TestDeadHome(t *testing.T) {
	for what, change := range map[string]func(*Config){
		"with UDP": func(*Config) {},
		"no UDP":   func(c *Config) { c.RelayOnly = true },
	} {
		t.Run(what, func(t *testing.T) {
			n := newNetwork(t, func(c *server.Config) {})
			withDeadRegion(t, n)
			a := n.join("alpha", change)
			eventually(t, "alpha has joined", a.member.hasJoined)
			home := func() int { return a.plane.pool.Status().Home }
			a.member.mu.Lock()
			a.member.home.region, a.member.home.chooser.home = region+1, region+1
			a.member.mu.Unlock()
			a.plane.setHome(region + 1)
			eventually(t, "the dead home fails", func() bool { return home() == region || a.plane.homeStatus().Err != nil })
			a.member.mu.Lock()
			a.member.home.meter.homeFrom, a.member.home.meter.measured = time.Now().Add(-homeDead), time.Time{}
			a.member.mu.Unlock()
			eventually(t, "alpha has another home", func() bool {
				s := a.plane.homeStatus()
				return s.Region == region && s.State == relay.RegionConnected
			})
			a.NetworkChanged() // which has STUN measure again
			time.Sleep(500 * time.Millisecond)
			if home() != region {
				t.Error("alpha is back at the dead home")
			}
		})
	}
}

// relayFront is a TCP forwarder in front of a relay, which can be cut.
type relayFront struct {
	ln     net.Listener
	behind string

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func newRelayFront(t *testing.T, behind string) *relayFront {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &relayFront{ln: ln, behind: behind}
	t.Cleanup(func() {
		ln.Close()
		f.setCut(true)
	})
	go f.serve()
	return f
}

func (f *relayFront) serve() {
	for {
		c, err := f.ln.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", f.behind)
		if err != nil {
			c.Close()
			continue
		}
		f.mu.Lock()
		f.conns = append(f.conns, c, far)
		if f.cut {
			c.Close()
			far.Close()
		}
		f.mu.Unlock()
		go io.Copy(c, far)
		go io.Copy(far, c)
	}
}

// setCut closes all connections and refuses new ones, or accepts them again.
func (f *relayFront) setCut(cut bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cut = cut; cut {
		for _, c := range f.conns {
			c.Close()
		}
		f.conns = nil
	}
}

// When a node is back at its relay, its peer retransmits at once, not after the back-off, which
// would be 6.2 s after the cut.
func TestTCPWhenPeerIsBack(t *testing.T) {
	t.Parallel()
	const outage = 3300 * time.Millisecond
	m := newMesh(t)
	a, b := m.add("alpha"), m.add("beta")
	relayed := func(c *Config) { c.RelayOnly = true }
	a.startReady(relayed)
	at := *m.relays.Regions[region].Nodes[0]
	f := newRelayFront(t, net.JoinHostPort(at.HostName, strconv.Itoa(at.DERPPort)))
	at.DERPPort = f.ln.Addr().(*net.TCPAddr).Port
	m.relays.Regions = map[int]*relay.Region{region: {RegionID: region, Nodes: []*relay.Node{&at}}}
	b.startReady(relayed)
	for _, n := range []*member{a, b} { // now that both have disco keys
		known := n.netmap(true)
		known.Relays = n.plane.netmap.Load().Relays
		if err := n.SetMap(known); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := b.Listen(netip.AddrPortFrom(netip.Addr{}, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := a.DialContext(t.Context(), "tcp", net.JoinHostPort(b.addr.String(), "80"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	f.setCut(true)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(outage)
	f.setCut(false)
	eventually(t, "beta is at the relay again", func() bool { return b.plane.homeStatus().State == relay.RegionConnected })
	back := time.Now()
	far.SetReadDeadline(back.Add(10 * time.Second))
	if _, err := far.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(back); took > 500*time.Millisecond {
		t.Errorf("the byte came %v after the peer was back", took)
	}
}

// An answer to a ping through the relay proves a path, even if nothing else was sent.
func TestRelayPingIsAPath(t *testing.T) {
	a, b := two(t, func(c *Config) { c.RelayOnly = true })
	for _, n := range []*member{a, b} {
		if err := n.SetMap(n.netmap(true)); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.Status().Peers[0].Path; got != PathNone {
		t.Errorf("before the ping the path is %q", got)
	}
	eventually(t, "beta answers a ping", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := a.Ping(ctx, "beta")
		return err == nil
	})
	if p := a.Status().Peers[0]; p.Path != PathRelay || !p.LastHandshake.IsZero() {
		t.Errorf("after a ping the path is %q, the last handshake was at %v", p.Path, p.LastHandshake)
	}
	if err := a.SetMap(NetworkMap{Addresses: single(a.addr), Relays: a.mesh.relays, Home: region}); err != nil {
		t.Fatal(err)
	}
	if a.plane.hasPonged(b.Node.key().Public()) {
		t.Error("a peer that has left is remembered")
	}
}
