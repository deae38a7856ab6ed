package proxy

import (
	"net"
	"testing"
	"time"
)

// A client that has spoken is not evicted for having been silent before we read it.
func TestGateSparesUnreadInput(t *testing.T) {
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
	var g gate
	g.init(2, usualPatience*time.Second)
	start := time.Unix(1000, 0)
	for _, c := range conns {
		g.enter(c, start)
	}
	late := start.Add(time.Second)
	if displaced, _ := g.relieve(late); displaced != conns[1] {
		t.Errorf("%p had to go, want the first of those that said nothing, %p", displaced, conns[1])
	}
	if oldest := g.evictOldest(late); oldest != conns[2] {
		t.Errorf("%p is the oldest, want %p, which said nothing", oldest, conns[2])
	}
	if oldest := g.evictOldest(late); oldest != conns[0] {
		t.Errorf("%p is the oldest, want %p, which is the last", oldest, conns[0])
	}
}
