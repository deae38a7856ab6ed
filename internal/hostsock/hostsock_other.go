//go:build !linux

package hostsock

import (
	"context"
	"net"
	"net/netip"
)

// Listen is net.Listen for "tcp".
func Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

// Dial is net.Dialer's DialContext.
func Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", to.String())
}
