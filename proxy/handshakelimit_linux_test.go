package proxy

import (
	"net"
	"testing"
	"time"
)

// A client whose input we have not read yet is not evicted for silence.
func TestLimitSparesUnreadInput(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var clients []net.Conn
	var conns []*conn
	for range 3 {
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close(); server.Close() })
		clients, conns = append(clients, client), append(conns, &conn{Conn: server})
	}
	clients[0].Write([]byte{socks5Version})
	eventually(t, "there is something to read", func() bool { return hasInput(conns[0].Conn) })
	var l handshakeLimit
	l.init(2, usualDivisor*time.Second)
	start := time.Unix(1000, 0)
	for _, c := range conns {
		l.addHandshake(c, start)
	}
	late := start.Add(time.Second)
	if evicted, _ := l.makeRoom(late); evicted != conns[1] {
		t.Errorf("%p was evicted, want the first whose client sent nothing, %p", evicted, conns[1])
	}
	if oldest := l.evictOldest(late); oldest != conns[2] {
		t.Errorf("%p is the oldest, want %p, whose client sent nothing", oldest, conns[2])
	}
	if oldest := l.evictOldest(late); oldest != conns[0] {
		t.Errorf("%p is the oldest, want %p, the last one left", oldest, conns[0])
	}
}
