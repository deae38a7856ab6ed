package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Forwards lead into the mesh, served ports out of it, for connections, datagrams and unix sockets.
func TestForwardAndServe(t *testing.T) {
	echo := func(c net.Conn) { io.Copy(c, c); c.Close() }
	local, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	go func() {
		for {
			c, err := local.Accept()
			if err != nil {
				return
			}
			go echo(c)
		}
	}()
	datagrams, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := datagrams.ReadFrom(buf)
			if err != nil {
				return
			}
			datagrams.WriteTo(buf[:n], from)
		}
	}()
	m := newMesh(t)
	a, b := m.add("alpha"), m.add("beta")
	b.startReady(func(c *Config) {
		c.Serves = []Serve{{7, tcp(local.Addr().String())}, {7, udp(datagrams.LocalAddr().String())}}
	})
	path := socketFile(filepath.Join(t.TempDir(), "echo.sock"))
	a.start(func(c *Config) {
		c.Forwards = []Forward{{tcp("127.0.0.1:0"), "beta:7"}, {udp("127.0.0.1:0"), "beta:7"}, {path, "100.64.0.2:7"}}
	})
	for _, e := range a.ingress.entries {
		c, err := net.Dial(e.addr.Network(), e.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(c, "round trip")
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err != nil || string(buf[:n]) != "round trip" {
			t.Errorf("%v %v: got %q, %v", e.addr.Network(), e.addr, buf[:n], err)
		}
	}
}

// A served port stays open while its target is down: connections are refused, and no other listener
// gets the port. The node itself reaches the port, too.
func TestServeRefusesForItsTarget(t *testing.T) {
	// On its own address, because other processes take free ports of 127.0.0.1 as soon as they are
	// closed.
	local, err := net.Listen("tcp", "127.0.0.77:0")
	if err != nil && runtime.GOOS != "linux" {
		t.Skip(err) // Linux has all of 127.0.0.0/8 on loopback, others have one address
	}
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	m := newMesh(t)
	a, b := m.add("alpha"), m.add("beta")
	b.startReady(func(c *Config) { c.Serves = []Serve{{7, tcp(local.Addr().String())}} })
	a.start(func(c *Config) { c.WaitFor = []string{"beta:7"} })
	eventually(t, "beta:7 answers", func() bool { return a.Status().State == StateRunning })
	for _, n := range []*member{a, b} {
		c, err := n.DialContext(t.Context(), "tcp", "beta:7")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if ln, err := b.Listen(netip.AddrPortFrom(netip.Addr{}, 7)); !errors.Is(err, syscall.EADDRINUSE) {
		ln.Close()
		t.Errorf("listening on a served port: %v", err)
	}
	local.Close()
	for _, n := range []*member{a, b} {
		if _, err := n.DialContext(t.Context(), "tcp", "beta:7"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s without a target: %v, want a refusal", n.name, err)
		}
	}
}

// A socket file of a killed node does not keep the next one from starting. A socket in use does.
func TestUnixListener(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	ln, err := listenOn(socketFile(path))
	if err != nil {
		t.Fatalf("over a dead socket: %v", err)
	}
	defer ln.Close()
	if second, err := listenOn(socketFile(path)); err == nil {
		second.Close()
		t.Error("a socket in use was taken over")
	}
}

// New fails if a port is in use, and leaves nothing open.
func TestPortTaken(t *testing.T) {
	m := newMesh(t)
	a := m.add("alpha")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = New(Config{Key: a.key, Map: a.netmap(false),
		Proxies: []net.Addr{tcp("127.0.0.1:0"), tcp(ln.Addr().String())}})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), ln.Addr().String()) {
		t.Errorf("got %v, want the address and that it is in use", err)
	}
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	port := pc.LocalAddr().(*net.UDPAddr).Port
	_, err = New(Config{Key: a.key, Map: a.netmap(false), UDPAddr: loopback, UDPPort: uint16(port)})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), fmt.Sprint(port)) {
		t.Errorf("got %v, want the UDP port and that it is in use", err)
	}
	for _, cfg := range []Config{{}, {Key: a.key}, {Map: a.netmap(false)}, {Key: a.key, Map: a.netmap(false), MTU: 100}} {
		if n, err := New(cfg); err == nil {
			n.Close()
			t.Errorf("a node was made of %+v", cfg)
		}
	}
}
