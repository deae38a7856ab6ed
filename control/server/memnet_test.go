package server

import (
	"context"
	"net"
	"sync"
)

// memListener is a listener whose connections are pipes, so that tests can run on fake time.
type memListener struct {
	connc chan net.Conn
	stopc chan struct{}
	once  sync.Once
}

func newMemListener() *memListener {
	return &memListener{connc: make(chan net.Conn), stopc: make(chan struct{})}
}

// DialContext connects to the listener, whatever the address.
func (l *memListener) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
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
