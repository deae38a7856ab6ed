// Package sockowner tells whether the other end of a TCP connection within this machine belongs to
// a process of the same user.
package sockowner

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// IsOurs reports whether a process of this process's user made the connection c, which was accepted
// here. It is false where the system does not tell, and for a connection that
// has been closed meanwhile. It does not block.
func IsOurs(c net.Conn) bool {
	client, ok1 := addrPort(c.RemoteAddr())
	server, ok2 := addrPort(c.LocalAddr())
	return ok1 && ok2 && client.Addr().IsLoopback() && isOurs(client, server)
}

// Known reports whether this system tells the owners of connections. It makes one on loopback to
// find out.
func Known(ctx context.Context) bool { return tryOn(ctx, isOurs) }

// tryOn makes a connection on loopback and returns what f says of it.
func tryOn(ctx context.Context, f func(client, server netip.AddrPort) bool) bool {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return false
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		return false
	}
	defer c.Close()
	client, _ := addrPort(c.LocalAddr())
	server, _ := addrPort(ln.Addr())
	return f(client, server)
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), true
}
