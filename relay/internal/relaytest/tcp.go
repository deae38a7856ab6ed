package relaytest

import (
	"net"
	"testing"
)

// TCPPair returns a connected pair of sockets with small buffers.
func TCPPair(tb testing.TB) (near, far *net.TCPConn) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { a.Close(); b.Close() })
	near, far = a.(*net.TCPConn), b.(*net.TCPConn)
	near.SetWriteBuffer(16 << 10)
	return near, far
}
