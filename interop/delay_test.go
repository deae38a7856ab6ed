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

// delayedConn is a UDP socket that delays each datagram that it sends. Without a delay, as on
// loopback, the answer to their network check arrives before the check has recorded its request.
// The check then concludes that the socket cannot send, and opens it again.
type delayedConn struct{ *net.UDPConn }

const udpDelay = 20 * time.Millisecond

// WriteToUDPAddrPort sends b after the delay and returns at once.
func (c delayedConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	b = bytes.Clone(b)
	time.AfterFunc(udpDelay, func() { c.UDPConn.WriteToUDPAddrPort(b, to) })
	return len(b), nil
}

// listenDelayed opens delayedConns on loopback.
type listenDelayed struct{}

// ListenPacket implements their nettype.PacketListener.
func (listenDelayed) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		return nil, err
	}
	return delayedConn{c}, nil
}

// serveDelayedSTUN adds a STUN service to a relay, of the relay's own make and with delayed
// answers.
func serveDelayedSTUN(tb testing.TB, h *relayHost) {
	tb.Helper()
	our, ok := h.server.(ourRelay)
	if !ok {
		addr, stop := stuntest.ServeWithPacketListener(tb, listenDelayed{})
		h.stun = addr.Port
		tb.Cleanup(stop)
		return
	}
	pc, err := listenDelayed{}.ListenPacket(tb.Context(), "udp4", "")
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
