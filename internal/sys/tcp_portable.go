//go:build !linux || ginnel_stdnet

package sys

import (
	"context"
	"net"
	"net/netip"
)

// TCPConn is the type of the connections of ListenTCP and DialTCP.
type TCPConn = net.TCPConn

func listenTCP(addr string) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	return c.Listen(context.Background(), "tcp", addr)
}

func dialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", to.String())
}
