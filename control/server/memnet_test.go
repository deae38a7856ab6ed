package server

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// memListener is a listener whose connections are pipes, which work in a synctest bubble.
type memListener struct {
	connc chan net.Conn
	stopc chan struct{}
	once  sync.Once
}

func newMemListener() *memListener {
	return &memListener{connc: make(chan net.Conn), stopc: make(chan struct{})}
}

// fromAddr is the server's end of a connection with a chosen remote address.
type fromAddr struct {
	net.Conn
	remote netip.Addr
}

// RemoteAddr implements net.Conn.
func (c fromAddr) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.remote, 12345))
}

// dial connects to the listener, from the given address if it is valid.
func (l *memListener) dial(ctx context.Context, from netip.Addr) (net.Conn, error) {
	client, server := net.Pipe()
	if from.IsValid() {
		server = fromAddr{server, from}
	}
	select {
	case l.connc <- server:
		return client, nil
	case <-l.stopc:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.connc:
		return c, nil
	case <-l.stopc:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.stopc) })
	return nil
}

func (l *memListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
