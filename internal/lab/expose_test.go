//go:build lab

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Forwards lead from local ports and a unix socket to addresses and names behind the peer, over TCP
// and UDP. When the node has ended, no socket of them is left.
func TestForwards(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startNameServers()
	socket := filepath.Join(s.dir, "forward.sock")
	g := s.up(wgFile{iface: []string{"DNS = " + innerAddr4 + ", corp.example"}},
		"-L", "8001:10.88.0.2:80", "-L", "8002:web:80", "-L", "[::1]:8003:[fd88::2]:80",
		"--forward", "unix:"+socket+":10.88.0.2:80",
		"-L", "8007:10.88.0.2:7/udp", "-L", "8008:[fd88::2]:7/udp", "-L", "8009:10.88.0.2:81")
	for _, url := range []string{"http://127.0.0.1:8001/", "http://127.0.0.1:8002/", "http://[::1]:8003/"} {
		if r := s.client.tool(curl(url)...); !strings.HasPrefix(r.stdout, "inner for") {
			t.Errorf("%s: got %q %q", url, r.stdout, r.stderr)
		}
	}
	if r := s.client.tool(curl("--unix-socket", socket, "http://any/")...); !strings.HasPrefix(r.stdout, "inner for") {
		t.Errorf("unix socket: got %q %q", r.stdout, r.stderr)
	}
	if r := s.client.tool(curl("http://127.0.0.1:8009/")...); r.status == 0 || r.stdout != "" {
		t.Errorf("forward to a closed port: got %q %q, want nothing", r.stdout, r.stderr)
	}
	for _, port := range []int{8007, 8008} {
		pc := s.client.listenUDP("127.0.0.1:0")
		for _, size := range []int{1, 1200, 9000, 60000} {
			assertUDPEcho(t, pc, fmt.Sprintf("127.0.0.1:%d", port), size)
		}
		pc.Close()
	}
	g.end()
	if left := s.client.sockets(); len(left) > 0 {
		t.Errorf("sockets left after the end: %q", left)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the unix socket of the forward is left after the node has ended")
	}
}

// assertUDPEcho sends a datagram to an echo server and checks that it comes back.
func assertUDPEcho(t *testing.T, pc *net.UDPConn, addr string, size int) {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	payload := bytes.Repeat([]byte{byte(size)}, size)
	if _, err := pc.WriteToUDP(payload, to); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	pc.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, from, err := pc.ReadFromUDP(buf)
	if err != nil || from.String() != to.String() || !bytes.Equal(buf[:n], payload) {
		t.Errorf("%s: sent %d bytes, got %d from %v: %v", addr, size, n, from, err)
	}
}

// The peer and hosts behind it reach the ports that --serve opens, over TCP and UDP. Nothing else
// of the node and its host is reachable: other ports are refused, and pings get no answer.
func TestServes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.client.startServices("client")
	socket := filepath.Join(s.dir, "service.sock")
	serveUnix(t, socket)
	s.up(wgFile{}, "--serve", "80=80", "--serve", "8080=127.0.0.1:80", "--serve", "7=127.0.0.1:7/udp",
		"--serve", "5001="+bulkPort, "--serve", "82=unix:"+socket)
	// The peer learns the node's endpoint from this.
	if _, err := s.client.viaSOCKS(defaultProxy, web(peerAddr4)); err != nil {
		t.Fatal(err)
	}
	for _, from := range []*netns{s.gate, s.inner} {
		for url, want := range map[string]string{
			"http://" + web(nodeAddr4):    "client for 127.0.0.1",
			"http://" + web(nodeAddr6):    "client for 127.0.0.1",
			"http://10.77.0.2:8080/":      "client for 127.0.0.1",
			"http://" + nodeAddr4 + ":82": "by a unix socket",
		} {
			if r := from.tool(curl(url)...); strings.TrimSpace(r.stdout) != want {
				t.Errorf("%s from %s: got %q %q, want %q", url, from.name, r.stdout, r.stderr, want)
			}
		}
		pc := from.listenUDP(":0")
		for _, size := range []int{1, 1200, 9000, 60000} {
			assertUDPEcho(t, pc, nodeAddr4+":7", size)
			assertUDPEcho(t, pc, "["+nodeAddr6+"]:7", size)
		}
		assertRefusing(t, from)
	}
	c, err := s.inner.dial("tcp", net.JoinHostPort(nodeAddr4, bulkPort))
	if err != nil {
		t.Fatal(err)
	}
	b := startBulk(t, c, 8<<20)
	for range 20 {
		b.flows("to a served port", dialTimeout)
	}
	b.finish()
}

// serveUnix starts a web server on a unix socket that every user may open.
func serveUnix(t *testing.T, path string) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "by a unix socket\n")
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
}

// assertRefusing checks that ports without --serve are refused at once, even those on which the
// host's own services listen.
func assertRefusing(t *testing.T, from *netns) {
	t.Helper()
	var wg sync.WaitGroup
	for _, host := range []string{nodeAddr4, nodeAddr6} {
		for _, port := range []string{"1", "7", "22", "81", "443", "1080", "8081", "65535"} {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
				defer cancel()
				c, err := from.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
				if err == nil {
					c.Close()
				}
				if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("TCP port %s of %s from %s: %v, want a refusal", port, host, from.name, err)
				}
			})
		}
		wg.Go(func() {
			if r := from.tool("ping", "-c", "1", "-W", "1", host); r.status == 0 || strings.Contains(r.stdout, "From ") {
				t.Errorf("ping of %s from %s was answered: %s", host, from.name, r.stdout)
			}
		})
		wg.Go(func() { assertUDPRefused(t, from, net.JoinHostPort(host, "53")) })
	}
	wg.Wait()
}

func assertUDPRefused(t *testing.T, from *netns, addr string) {
	t.Helper()
	c, err := from.dial("udp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	c.Write([]byte("anybody?"))
	c.SetReadDeadline(time.Now().Add(time.Second))
	if n, err := c.Read(make([]byte, 100)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("UDP to %s: %d bytes, %v, want a refusal", addr, n, err)
	}
}

// With --mesh-only, destinations outside the mesh are refused with a reason, in every protocol.
// With and without it, a mesh address that no peer has is never dialled on the host's network.
// There, in this test, a server would answer.
func TestWhatMayLeave(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.router.startServices("router")
	const outside, unassigned = "198.51.100.1", "100.64.9.9"
	s.router.addr("lo", unassigned+"/32")
	if r := s.client.tool(curl("http://" + web(unassigned))...); !strings.HasPrefix(r.stdout, "router") {
		t.Fatalf("the server on the host's network does not answer, so the test proves nothing: %+v", r)
	}
	for _, meshOnly := range []bool{false, true} {
		g := s.up(wgFile{}, fmt.Sprintf("--mesh-only=%v", meshOnly))
		_, err := s.client.viaConnect(defaultProxy, web(unassigned))
		assertRefused(t, "mesh address that no peer has", err, "502", unassigned, "no peer has this address")
		a, aerr := s.client.associate(defaultProxy)
		if aerr != nil {
			t.Fatal(aerr)
		}
		a.send(unassigned, 7, []byte("lost"))
		if _, got, err := a.receive(time.Second); err == nil {
			t.Errorf("mesh-only %v: a datagram to a mesh address left through the host's network: %q", meshOnly, got)
		}
		a.send(outside, 7, []byte("outside"))
		_, got, err := a.receive(time.Second)
		if (err == nil) == meshOnly {
			t.Errorf("mesh-only %v: a datagram to an address outside the mesh: got %q, %v", meshOnly, got, err)
		}
		r := s.client.tool(curl("-x", "http://"+defaultProxy, "-w", "%{http_code}", "http://"+web(outside))...)
		_, err = s.client.viaConnect(defaultProxy, web(outside))
		if !meshOnly {
			if !strings.HasPrefix(r.stdout, "router for") || err != nil {
				t.Errorf("address outside the mesh: got %q, %v", r.stdout, err)
			}
			g.end()
			continue
		}
		const why = "the destination is outside the mesh, and --mesh-only is set"
		if !strings.Contains(r.stdout, why) || !strings.HasSuffix(r.stdout, "403") {
			t.Errorf("http: got %q, want 403 and %q", r.stdout, why)
		}
		assertRefused(t, "CONNECT", err, "403", why)
		if r := s.client.tool(curl("--socks5", defaultProxy, "http://"+web(outside))...); !strings.Contains(r.stderr, "(2)") {
			t.Errorf("SOCKS5: got %q, want reply 2, not allowed", r.stderr)
		}
		g.end()
	}
}
