package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"ginnel/key"
	"ginnel/userstack"
)

func newPublicKey() key.NodePublic { return key.NewNodePrivate().Public() }

// addressBind is the Bind of a stock device at one address. It opens its socket again after a
// BindUpdate, as a host that moves does.
type addressBind struct {
	ip string
	c  *net.UDPConn
}

func (b *addressBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	var err error
	if b.c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(b.ip), Port: int(port)}); err != nil {
		return nil, 0, err
	}
	c := b.c
	receive := func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, from, err := c.ReadFromUDPAddrPort(bufs[0])
		sizes[0], eps[0] = n, &conn.StdNetEndpoint{AddrPort: from}
		return 1, err
	}
	return []conn.ReceiveFunc{receive}, uint16(c.LocalAddr().(*net.UDPAddr).Port), nil
}

func (b *addressBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	for _, m := range bufs {
		if _, err := b.c.WriteToUDPAddrPort(m, ep.(*conn.StdNetEndpoint).AddrPort); err != nil {
			return err
		}
	}
	return nil
}

func (b *addressBind) Close() error {
	if b.c == nil {
		return nil
	}
	return b.c.Close()
}

func (b *addressBind) SetMark(uint32) error { return nil }
func (b *addressBind) BatchSize() int       { return 1 }

func (b *addressBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	ap, err := netip.ParseAddrPort(s)
	return &conn.StdNetEndpoint{AddrPort: ap}, err
}

// stockPeer is a wireguard-go device with a stack of its own.
type stockPeer struct {
	key   key.NodePrivate
	stack *userstack.Stack
	dev   *device.Device
	port  uint16
}

var stockAddr = netip.MustParseAddr("10.9.0.1")

func newStockPeer(t *testing.T, bind conn.Bind, clients ...key.NodePublic) *stockPeer {
	t.Helper()
	p := &stockPeer{key: key.NewNodePrivate()}
	var err error
	if p.stack, err = userstack.New(userstack.Config{}); err != nil {
		t.Fatal(err)
	}
	if err := p.stack.SetAddrs(single(stockAddr)); err != nil {
		t.Fatal(err)
	}
	p.stack.SetFilter(func(userstack.Flow) bool { return true })
	p.dev = device.NewDevice(newStockTun(p.stack.Device()), bind, device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(func() {
		p.stack.Close()
		p.dev.Close()
	})
	raw := p.key.Raw()
	text := "private_key=" + hex.EncodeToString(raw[:]) + "\n"
	for i, c := range clients {
		text += fmt.Sprintf("public_key=%x\nallowed_ip=10.9.0.%d/32\n", c[:], i+2)
	}
	if err := p.dev.IpcSet(text); err != nil {
		t.Fatal(err)
	}
	if err := p.dev.Up(); err != nil {
		t.Fatal(err)
	}
	p.port = stockPort(t, p.dev)
	return p
}

// stockTun adapts a stack's device to wireguard-go, whose reads wait for packets.
type stockTun struct {
	*userstack.Device
	readyc chan struct{}
	closec chan struct{}
	events chan tun.Event
	once   sync.Once
}

func newStockTun(d *userstack.Device) *stockTun {
	s := &stockTun{Device: d, readyc: make(chan struct{}, 1), closec: make(chan struct{}), events: make(chan tun.Event)}
	s.queue().Notify(func() {
		select {
		case s.readyc <- struct{}{}:
		default:
		}
	})
	return s
}

func (s *stockTun) queue() *userstack.Queue { return s.Device.Queues()[0] }

func (s *stockTun) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		if n := s.queue().Read(bufs, sizes, offset); n > 0 {
			return n, nil
		}
		select {
		case <-s.readyc:
		case <-s.closec:
			return 0, os.ErrClosed
		}
	}
}

func (s *stockTun) File() *os.File           { return nil }
func (s *stockTun) MTU() (int, error)        { return s.Device.MTU(), nil }
func (s *stockTun) Name() (string, error)    { return "stock", nil }
func (s *stockTun) Events() <-chan tun.Event { return s.events }

func (s *stockTun) Close() error {
	s.once.Do(func() {
		close(s.closec)
		close(s.events)
	})
	return s.Device.Close()
}

func stockPort(t *testing.T, dev *device.Device) (port uint16) {
	t.Helper()
	text, err := dev.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if n, _ := fmt.Sscanf(line, "listen_port=%d", &port); n == 1 {
			return port
		}
	}
	t.Fatal("the device has no port")
	return 0
}

// echoTCP echoes on port 7 of the peer's stack.
func (p *stockPeer) echoTCP(t *testing.T) {
	t.Helper()
	ln, err := p.stack.Listen(netip.AddrPortFrom(stockAddr, 7))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
}

// plainNode starts a node with one plain peer.
func plainNode(t *testing.T, k key.NodePrivate, p *stockPeer, e Endpoint, change ...func(*Config)) *Node {
	t.Helper()
	cfg := Config{
		Key:     k,
		UDPAddr: loopback,
		Log:     testLog(t, "plain"),
		Map: NetworkMap{
			Addresses: prefixes("10.9.0.2/24"),
			Peers:     []Peer{{Key: p.key.Public(), Addresses: prefixes("10.9.0.0/24"), Plain: true, Endpoint: e}},
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func roundTrip(t *testing.T, c net.Conn, text string, wait time.Duration) error {
	t.Helper()
	c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	buf := make([]byte, len(text))
	_, err := io.ReadFull(c, buf)
	if err == nil && string(buf) != text {
		return fmt.Errorf("got %q, want %q", buf, text)
	}
	return err
}

// A stock WireGuard device is a peer without a relay and without discovery.
func TestPlainPeer(t *testing.T) {
	k := key.NewNodePrivate()
	p := newStockPeer(t, conn.NewStdNetBind(), k.Public())
	p.echoTCP(t)
	n := plainNode(t, k, p, Endpoint{"127.0.0.1", p.port})
	c, err := n.DialContext(t.Context(), "tcp", "10.9.0.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := roundTrip(t, c, "plain", 5*time.Second); err != nil {
		t.Error(err)
	}
	s := n.Status()
	if s.State != StateRunning || s.Peers[0].Path != PathDirect ||
		s.Peers[0].Endpoint != fmt.Sprintf("127.0.0.1:%d", p.port) || s.Peers[0].RxBytes == 0 {
		t.Errorf("status %+v", s)
	}
	r, err := n.Ping(t.Context(), "10.9.0.1")
	if err != nil || r.Path != PathDirect || r.RTTMS <= 0 {
		t.Errorf("ping: %+v, %v", r, err)
	}
	if _, err := n.Ping(t.Context(), "10.9.9.9"); err == nil {
		t.Error("somebody without a peer answered a ping")
	}
}

// A peer with the wrong key never answers, and the error says what to check.
func TestPlainPeerWrongKey(t *testing.T) {
	k := key.NewNodePrivate()
	p := newStockPeer(t, conn.NewStdNetBind(), newPublicKey())
	n := plainNode(t, k, p, Endpoint{"127.0.0.1", p.port})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := n.DialContext(ctx, "tcp", "10.9.0.1:7")
	if want := fmt.Sprintf("does not answer at 127.0.0.1:%d: no WireGuard handshake yet; check its address, its key",
		p.port); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q in it", err, want)
	}
	if s := n.Status(); s.Peers[0].Path != PathNone {
		t.Errorf("path %v to a peer that never answered", s.Peers[0].Path)
	}
}

// The name of a silent peer is looked up again, and the open connection continues at its new
// address.
func TestPlainPeerMovesUnderItsName(t *testing.T) {
	k := key.NewNodePrivate()
	where := &addressBind{ip: "127.0.0.1"}
	p := newStockPeer(t, where, k.Public())
	p.echoTCP(t)
	var address atomic.Value
	address.Store("127.0.0.1")
	n := plainNode(t, k, p, Endpoint{"peer.example", p.port}, func(c *Config) {
		c.LookupHost = func(_ context.Context, host string) ([]netip.Addr, error) {
			if host != "peer.example" {
				t.Errorf("looked up %q", host)
			}
			return []netip.Addr{netip.MustParseAddr(address.Load().(string))}, nil
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := n.DialContext(ctx, "tcp", "10.9.0.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := roundTrip(t, c, "before", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	said, since := uint64(0), time.Now() // what the peer still has to say would tell where it is
	eventually(t, "the peer is silent", func() bool {
		if rx := n.Status().Peers[0].RxBytes; rx != said {
			said, since = rx, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
	where.ip = "127.0.0.2"
	if err := p.dev.BindUpdate(); err != nil {
		t.Fatal(err)
	}
	address.Store("127.0.0.2")
	start := time.Now()
	if err := roundTrip(t, c, "after", 30*time.Second); err != nil {
		t.Errorf("after the move: %v", err)
	}
	t.Logf("healed in %v", time.Since(start).Round(100*time.Millisecond))
	if e := n.Status().Peers[0].Endpoint; e != fmt.Sprintf("127.0.0.2:%d", p.port) {
		t.Errorf("endpoint %v", e)
	}
}

func TestObserve(t *testing.T) {
	now := time.Unix(1700000000, 0)
	at := netip.MustParseAddrPort("192.0.2.1:1")
	var w silenceWatch
	want := func(what string, s session, want lookupReason) {
		t.Helper()
		if got := w.observe(now, s); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	due := func(what string, want time.Time) {
		t.Helper()
		if got := w.due(); !got.Equal(want) {
			t.Errorf("%s: due at %v, want %v", what, got, want)
		}
	}
	due("nothing observed", time.Time{})
	want("a new peer without an address", session{}, lookupMoved)
	due("the next look-up", now.Add(lookupPause))
	want("at once again", session{}, lookupNone)
	now = now.Add(lookupPause)
	want("after the pause", session{}, lookupMoved)
	now = now.Add(lookupPause)
	want("before the pause, now doubled, is over", session{}, lookupNone)
	now = now.Add(lookupPause)
	want("after it", session{}, lookupDead)
	heard := session{endpoint: at, rx: 100, tx: 100}
	found := session{endpoint: at}
	want("it has an address, and nothing was asked of it", found, lookupNone)
	due("it owes no answer", time.Time{})
	want("it was heard from", heard, lookupNone)
	now = now.Add(time.Hour)
	want("nothing was asked of it", heard, lookupNone)
	due("it owes no answer", time.Time{})
	heard.tx += 148
	want("it was asked", heard, lookupNone)
	due("it owes an answer", now.Add(silenceLimit))
	now = now.Add(silenceLimit)
	want("and did not answer", heard, lookupMoved)
	now = now.Add(deadLimit)
	want("for long", heard, lookupDead)
	heard.rx++
	want("then it did", heard, lookupNone)
}

// Peers that owe no answer are not checked until something is sent to one of them.
func TestAwaitCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpointKeeper{mapc: make(chan struct{}, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		sentc := make(chan struct{}, 1)
		check := func(what string, next time.Time, after time.Duration, happen func(), want bool) {
			t.Helper()
			start := time.Now()
			time.AfterFunc(time.Hour, happen)
			if got := e.await(ctx, sentc, next); got != want || time.Since(start) != after {
				t.Errorf("%s: %v after %v, want %v after %v", what, got, time.Since(start), want, after)
			}
			time.Sleep(2 * time.Hour)
		}
		nothing := func() {}
		check("something is sent", time.Time{}, time.Hour+silenceCheck, func() { sentc <- struct{}{} }, true)
		check("the map changes", time.Time{}, time.Hour, func() { notify(e.mapc) }, true)
		check("it is time", time.Now().Add(time.Minute), time.Minute, nothing, true)
		check("it is past the time", time.Now().Add(-time.Minute), silenceCheck, nothing, true)
		check("the node ends", time.Time{}, time.Hour, cancel, false)
	})
}

func TestNextAddr(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	both := []netip.Addr{a, b}
	for _, c := range []struct {
		addrs   []netip.Addr
		current netip.Addr
		why     lookupReason
		want    netip.Addr
	}{
		{both, netip.Addr{}, lookupMoved, a},
		{both, a, lookupMoved, a}, // it may just have nothing to say
		{both, a, lookupDead, b},
		{both, b, lookupDead, a},
		{both[:1], a, lookupDead, a},
		{both[1:], a, lookupMoved, b},
	} {
		if got := nextAddr(c.addrs, c.current, c.why); got != c.want {
			t.Errorf("nextAddr(%v, %v, %v) = %v, want %v", c.addrs, c.current, c.why, got, c.want)
		}
	}
}

// If the name of the only endpoint cannot be looked up, the node is not ready, and all errors say
// why.
func TestEndpointNameUnknown(t *testing.T) {
	why := errors.New("the resolver is on holiday")
	n, err := New(Config{
		Key: key.NewNodePrivate(), UDPAddr: loopback, Log: testLog(t, "n"), DialTimeout: 100 * time.Millisecond,
		Map: NetworkMap{
			Addresses: single(netip.MustParseAddr("10.9.0.2")),
			Peers: []Peer{{Name: "gate", Key: key.NewNodePrivate().Public(), Plain: true,
				Addresses: single(netip.MustParseAddr("10.9.0.1")),
				Endpoint:  Endpoint{Host: "gate.example", Port: 1}}},
		},
		LookupHost: func(context.Context, string) ([]netip.Addr, error) { return nil, why },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	eventually(t, "the look-up has failed", func() bool { return n.Status().Reason != "" })
	s := n.Status()
	if s.State != StateStarting ||
		!strings.Contains(s.Reason, "looking up the endpoint of peer gate: the resolver is on holiday") {
		t.Errorf("state %v, %q", s.State, s.Reason)
	}
	if len(s.Health) != 1 || s.Health[0].Code != "endpoint-unresolved" ||
		!strings.Contains(s.Health[0].Text, why.Error()) {
		t.Errorf("health %v", s.Health)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := n.DialContext(ctx, "tcp", "10.9.0.1:80"); err == nil || !strings.Contains(err.Error(), why.Error()) {
		t.Errorf("dialling: %v", err)
	}
}
