package node

import (
	"net"
	"net/netip"
	"runtime"
	"testing"

	"ginnel/proxy"
)

// hostPeer is a UDP socket on the host's network.
func hostPeer(t *testing.T, addr string) *net.UDPConn {
	t.Helper()
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil && runtime.GOOS != "linux" {
		t.Skip(err) // Linux has all of 127.0.0.0/8 on loopback, others have one address
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc
}

// An association receives datagrams only from hosts to which it has sent something, from any of
// their ports. Its socket is bound to the address that these hosts see.
func TestStrangersDatagrams(t *testing.T) {
	a, _ := two(t)
	c, err := a.dialer.listenDatagrams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	known, foreign := hostPeer(t, "127.0.0.1:0"), hostPeer(t, "127.0.0.2:0")
	other := hostPeer(t, "127.0.0.1:0") // another port of the known host
	to := known.LocalAddr().(*net.UDPAddr).AddrPort()
	if _, err := c.WriteTo([]byte("question"), &proxy.Addr{IP: to.Addr(), Port: to.Port()}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	_, from, err := known.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	sock := c.(*datagramConn).host.socks[socketKind{ipv4: true, loopback: true}]
	if got := sock.LocalAddr().(*net.UDPAddr).AddrPort(); got != from || !got.Addr().IsLoopback() {
		t.Errorf("the socket for a destination on loopback is bound to %v", got)
	}
	for _, s := range []struct {
		sock *net.UDPConn
		text string
	}{{foreign, "of a foreign host"}, {known, "answer"}, {foreign, "of a foreign host"},
		{other, "answer from another port"}} {
		if _, err := s.sock.WriteToUDPAddrPort([]byte(s.text), from); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"answer", "answer from another port"} {
		if n, from, err := c.ReadFrom(buf); err != nil || string(buf[:n]) != want {
			t.Errorf("received %q from %v (%v), want %q", buf[:n], from, err, want)
		}
	}
	if got := a.dialer.foreignDatagrams.Load(); got != 2 {
		t.Errorf("%d datagrams of foreign hosts were counted, want 2", got)
	}
}

// Datagrams on the host's network with a source address of the mesh are dropped, even if the
// association has sent something to that address.
func TestMeshAddressOnHostNetwork(t *testing.T) {
	a, b := two(t)
	pc, err := a.dialer.listenDatagrams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c := pc.(*datagramConn)
	outside, nobodys := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("100.64.0.1")
	if _, err := c.host.open(netip.AddrPortFrom(loopback, 9), c.serveHost); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []netip.Addr{b.addr, nobodys, outside} {
		c.host.noteSent(addr)
	}
	for addr, want := range map[netip.Addr]bool{
		outside: true, netip.AddrFrom16(outside.As16()): true, loopback: true,
		b.addr: false, nobodys: false, netip.MustParseAddr("192.0.2.2"): false,
	} {
		if got := c.accepts(addr); got != want {
			t.Errorf("a datagram from %v on the host's network is let in: %v, want %v", addr, got, want)
		}
	}
}

// The hosts that may answer are bounded: the one to which nothing was sent for longest is
// forgotten. A dropped socket is replaced.
func TestHostSocketsAreBounded(t *testing.T) {
	var h hostSockets
	defer h.close()
	served := 0
	serve := func(*net.UDPConn) { served++ }
	host := func(n int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(n >> 8), byte(n)}), 9)
	}
	for n := range maxSentTo {
		if _, err := h.open(host(n+1), serve); err != nil {
			t.Fatal(err)
		}
	}
	h.open(host(1), serve)
	sock, err := h.open(host(maxSentTo+1), serve)
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]bool{1: true, 2: false, 3: true, maxSentTo + 1: true} {
		if got := h.expects(host(n).Addr()); got != want {
			t.Errorf("host %d may answer is %v, want %v", n, got, want)
		}
	}
	if len(h.sentTo) > maxSentTo || served != 1 {
		t.Errorf("%d hosts by %d sockets", len(h.sentTo), served)
	}
	h.drop(sock)
	if _, err := sock.WriteToUDPAddrPort([]byte("x"), host(1)); err == nil {
		t.Error("a socket that was given up still sends")
	}
	if again, err := h.open(host(1), serve); err != nil || again == sock {
		t.Errorf("no new socket for one that was given up (%v)", err)
	}
	h.close()
	if _, err := h.open(host(1), serve); err == nil {
		t.Error("a socket is opened after close")
	}
}
