package sys

import (
	"net"
	"net/netip"
	"os"
	"testing"
)

// The kernel tells the user of an established connection, and of nothing else.
func TestConnOwner(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue // no IPv6
		}
		defer ln.Close()
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		client, server := c.LocalAddr().(*net.TCPAddr).AddrPort(), ln.Addr().(*net.TCPAddr).AddrPort()
		if user, ok := ConnOwner(client, server); !ok || user != os.Geteuid() {
			t.Errorf("%s: user %d, %v, want %d", addr, user, ok, os.Geteuid())
		}
		if user, ok := ConnOwner(server, client); ok {
			t.Errorf("%s: the end that was not accepted yet has user %d", addr, user)
		}
		if user, ok := ConnOwner(netip.AddrPortFrom(client.Addr(), 1), server); ok {
			t.Errorf("%s: a connection that does not exist has user %d", addr, user)
		}
		if user, ok := ConnOwner(server, netip.AddrPortFrom(client.Addr(), 1)); ok {
			t.Errorf("%s: a listener is taken for a connection, of user %d", addr, user)
		}
		c.Close()
		if user, ok := ConnOwner(client, server); ok {
			t.Errorf("%s: a closed connection has user %d", addr, user)
		}
	}
}

func TestParseDiagCutAnywhere(t *testing.T) {
	whole := make([]byte, 16+diagAnswerLen)
	for n := range whole {
		if _, ok := parseDiag(whole[:n]); ok {
			t.Fatalf("%d bytes are an answer", n)
		}
	}
}

func BenchmarkConnOwner(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for b.Loop() {
		ConnOwner(c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort())
	}
}
