package interop

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"tailscale.com/net/stun/stuntest"
)

// distantConn is a UDP socket whose datagrams take some time, as they do everywhere but on
// loopback: their network check takes an answer that comes before its own bookkeeping for a socket
// that cannot send, and opens the socket anew.
type distantConn struct{ *net.UDPConn }

const distance = 20 * time.Millisecond

// WriteToUDPAddrPort sends b after the time that it takes.
func (c distantConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	b = bytes.Clone(b)
	time.AfterFunc(distance, func() { c.UDPConn.WriteToUDPAddrPort(b, to) })
	return len(b), nil
}

// listenDistant opens such a socket on loopback.
type listenDistant struct{}

// ListenPacket implements their nettype.PacketListener.
func (listenDistant) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		return nil, err
	}
	return distantConn{c}, nil
}

// serveDistantSTUN adds a STUN service of the relay's make, at some distance.
func serveDistantSTUN(tb testing.TB, h *relayHost) {
	tb.Helper()
	our, ok := h.server.(ourRelay)
	if !ok {
		addr, stop := stuntest.ServeWithPacketListener(tb, listenDistant{})
		h.stun = addr.Port
		tb.Cleanup(stop)
		return
	}
	pc, err := listenDistant{}.ListenPacket(tb.Context(), "udp4", "")
	if err != nil {
		tb.Fatal(err)
	}
	h.stun = pc.LocalAddr().(*net.UDPAddr).Port
	donec := make(chan struct{})
	go func() {
		defer close(donec)
		our.ServeSTUN(pc)
	}()
	tb.Cleanup(func() {
		pc.Close()
		<-donec
	})
}
