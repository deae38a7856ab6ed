package sys

import (
	"context"
	"net"
	"net/netip"
)

// ListenTCP listens on addr as net.Listen does for "tcp", without MPTCP. The connections that it
// accepts have TCP_NODELAY and keep-alive as those of package net.
func ListenTCP(addr string) (net.Listener, error) { return listenTCP(addr) }

// DialTCP connects to an address as net.Dialer does. To loopback it also gets through while the
// listener's backlog is full: it repeats the attempt within milliseconds instead of seconds.
func DialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) { return dialTCP(ctx, to) }
