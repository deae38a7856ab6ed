//go:build !linux

package hostsock

import (
	"context"
	"net"
	"net/netip"
)

// Listen listens on addr as net.Listen does for "tcp".
func Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

// Dial connects to an address as net.Dialer does.
func Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", to.String())
}
