package proxy

import (
	"net"
	"testing"
)

// Of two half-open connections in a gate for one, that goes which has been silent for longest, but not before one whose
// words have not been read yet.
func TestGateSparesWhoWaits(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	pair := func() (client net.Conn, c *conn) {
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close(); server.Close() })
		return client, &conn{Conn: server}
	}
	_, silent := pair()
	_, other := pair()
	g := gate{max: 1}
	g.enter(silent)
	if got := g.enter(other); got != silent {
		t.Error("the one that was silent for longest stayed")
	}
	client, waiting := pair()
	client.Write([]byte{socks5Version})
	eventually(t, "there is something to read", func() bool { return hasInput(waiting.Conn) })
	g = gate{max: 1}
	g.enter(waiting)
	_, late := pair()
	if got := g.enter(late); got != late {
		t.Error("one that waits for us had to go")
	}
	_, heard := pair()
	_, quiet := pair()
	_, third := pair()
	g = gate{max: 2}
	g.enter(heard)
	g.enter(quiet)
	g.renew(heard)
	if got := g.enter(third); got != quiet {
		t.Error("one that was heard had to go before one that was not")
	}
}
