package node

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
)

// gateway starts a node with a proxy, and another node that serves a service of this machine in the
// mesh. It returns the address of the proxy once the path between the nodes is direct.
func gateway(b *testing.B, target func(*Config)) (proxy string) {
	b.Helper()
	m := newMesh(b)
	here, there := m.add("here"), m.add("there")
	there.startReady(target)
	here.startReady(withProxy)
	m.introduce()
	here.Node.Ping(b.Context(), "there")
	eventually(b, "a direct path", func() bool { return here.path(there) == PathDirect && there.path(here) == PathDirect })
	return here.Status().Proxies[0]
}

// BenchmarkRequest connects through the proxy to a service behind another node, exchanges a request
// and a response, and closes.
func BenchmarkRequest(b *testing.B) {
	service, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer service.Close()
	go func() {
		for {
			c, err := service.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	proxy := gateway(b, func(c *Config) { c.Serves = []Serve{{Port: 9, Target: service.Addr()}} })
	b.ReportAllocs()
	for b.Loop() {
		if err := request(proxy, netip.MustParseAddrPort("100.64.0.2:9")); err != nil {
			b.Fatal(err)
		}
	}
}

// request makes one connection with SOCKS5 (RFC 1928) and exchanges 64 bytes each way.
func request(proxy string, to netip.AddrPort) error {
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		return err
	}
	defer c.Close()
	ip := to.Addr().As4()
	var answer [64]byte
	for _, step := range []struct {
		say  []byte
		want int
	}{
		{[]byte{5, 1, 0}, 2},
		{append(append([]byte{5, 1, 0, 1}, ip[:]...), byte(to.Port()>>8), byte(to.Port())), 10},
		{make([]byte, 64), 64},
	} {
		if _, err := c.Write(step.say); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, answer[:step.want]); err != nil {
			return fmt.Errorf("after %d bytes: %w", len(step.say), err)
		}
	}
	return nil
}
