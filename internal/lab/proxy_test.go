//go:build lab

package lab

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fetcher fetches a web page through the proxy with a common tool.
type fetcher struct {
	name  string
	args  func(proxy, host string) []string
	input string // the request, for tools without HTTP
	only4 bool   // the protocol carries no IPv6 addresses
}

const plainRequest = "GET / HTTP/1.0\r\n\r\n"

// curl returns a curl command line with the options that all tests use.
func curl(args ...string) []string {
	return append([]string{"curl", "-sS", "--globoff", "--noproxy", "", "--max-time", "15"}, args...)
}

func fetchers() []fetcher {
	url := func(host string) string { return "http://" + net.JoinHostPort(host, webPort) + "/" }
	return []fetcher{
		{name: "curl --socks5-hostname", args: func(p, h string) []string { return curl("--socks5-hostname", p, url(h)) }},
		{name: "curl --socks5", args: func(p, h string) []string { return curl("--socks5", p, url(h)) }},
		{name: "curl -x http", args: func(p, h string) []string { return curl("-x", "http://"+p, url(h)) }},
		{name: "curl -x socks4a", args: func(p, h string) []string { return curl("-x", "socks4a://"+p, url(h)) },
			only4: true},
		{name: "curl -x socks4", args: func(p, h string) []string { return curl("-x", "socks4://"+p, url(h)) }, only4: true},
		{name: "curl -p", args: func(p, h string) []string { return curl("-p", "-x", "http://"+p, url(h)) }},
		{name: "nc -X 5", args: func(p, h string) []string {
			return []string{"nc", "-w", "10", "-X", "5", "-x", p, h, webPort}
		}, input: plainRequest},
		{name: "nc -X connect", args: func(p, h string) []string {
			return []string{"nc", "-w", "10", "-X", "connect", "-x", p, h, webPort}
		}, input: plainRequest},
	}
}

// destinations are the hosts that a client of a site must reach, the name on their pages, and the
// node's address that they see.
var destinations = []struct{ host, page, from string }{
	{peerAddr4, "gate", nodeAddr4},
	{peerAddr6, "gate", nodeAddr6},
	{innerAddr4, "inner", nodeAddr4},
	{innerAddr6, "inner", nodeAddr6},
}

// Each tool fetches pages from the peer itself and from the network behind it, over IPv4 and IPv6
// inside the tunnel, with the tunnel over either family.
func TestToolsReachThePrivateNetwork(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, endpoint := range []string{endpoint4, "[" + gateAddr6 + "]:51820"} {
		t.Run("over "+endpoint, func(t *testing.T) {
			s.peer.restart() // wireguard-go keeps its old IPv4 source address and so sends wrong packets over IPv6
			g := s.up(wgFile{endpoint: endpoint})
			for _, f := range fetchers() {
				for _, p := range destinations {
					if strings.Contains(p.host, ":") && f.only4 {
						continue
					}
					r := s.client.run(command{as: asRoot, args: f.args(defaultProxy, p.host)}, f.input)
					want := fmt.Sprintf("%s for %s\n", p.page, p.from)
					if r.status != 0 || !strings.HasSuffix(r.stdout, want) {
						t.Errorf("%s %s: status %d, got %q %q, want %q", f.name, p.host, r.status, r.stdout, r.stderr, want)
					}
				}
			}
			if got := g.status().Peers[0].Endpoint; got != endpoint {
				t.Errorf("status shows the peer at %q, want %q", got, endpoint)
			}
			g.end()
			if left := s.client.sockets(); len(left) > 0 {
				t.Errorf("sockets left after the end: %q", left)
			}
		})
	}
}

// The first byte of a page through the tunnel arrives within a second or two of the start of the
// process, because only two round trips are needed. Connections made before the tunnel is up are
// not refused.
func TestFirstByte(t *testing.T) {
	s := newSite(t)
	var times []string
	for range 5 {
		time.Sleep(betweenHandshakes)
		home := newDir(t, "home")
		g := launchGinnel(s.client, s.key, ginnelCommand(home, "up", "--wireguard", s.file(wgFile{})))
		for {
			c, err := s.client.viaSOCKS(defaultProxy, net.JoinHostPort(innerAddr4, webPort))
			if err == nil {
				io.WriteString(c, plainRequest)
				_, err = io.ReadFull(c, make([]byte, 1))
				c.Close()
			}
			if err == nil {
				break
			}
			if time.Since(g.started) > dialTimeout {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		took := time.Since(g.started)
		times = append(times, took.Round(time.Millisecond).String())
		if took > 2*time.Second {
			t.Errorf("first byte after %v", took)
		}
		g.end()
	}
	t.Logf("from the start of the process to the first proxied byte: %s", strings.Join(times, ", "))
}

// Only a proxy with a password may listen on addresses that other machines reach. It admits clients
// with the password in each protocol that can carry one, except to the machine's own loopback
// addresses. No log contains the password, the token or the key.
func TestPassword(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.client.startServices("client")
	const user, password = "someone", "correct-horse-battery"
	file := writeFile(t, filepath.Join(s.dir, "password"), user+":"+password+"\n")
	const proxy = clientAddr4 + ":3128"
	g := s.up(wgFile{}, "--proxy", proxy, "--proxy-auth", "file:"+file, "--log-level", "debug", "--log-connections")
	for _, scheme := range []string{"socks5h", "http"} {
		for _, c := range []struct {
			auth, host, want string
		}{
			{user + ":" + password, web(innerAddr4), "inner for"},
			{user + ":" + password, "127.0.0.1:80", ""},
			{user + ":wrong", web(innerAddr4), ""},
			{"other:" + password, web(innerAddr4), ""},
			{"", web(innerAddr4), ""},
		} {
			r := s.router.tool(curl("-f", "-U", c.auth, "-x", scheme+"://"+proxy, "http://"+c.host)...)
			if !strings.HasPrefix(r.stdout, c.want) || (r.status == 0) != (c.want != "") {
				t.Errorf("%s as %q to %s: got %+v, want %q", scheme, c.auth, c.host, r, c.want)
			}
		}
	}
	g.assertTokenHidden()
	g.end()
	if log := g.out.String() + g.log.String(); strings.Contains(log, password) ||
		strings.Contains(log, base64.StdEncoding.EncodeToString([]byte(user+":"+password))) {
		t.Error("the log shows the password")
	}
}

// Datagrams of any size pass unchanged through a UDP association, over both address families.
// Answers carry their source address. Without packet loss none is lost.
func TestDatagramsOfAllSizes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.up(wgFile{})
	for _, p := range destinations {
		a, err := s.client.associate(defaultProxy)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1, 1200, 9000, 60000} {
			a.assertEcho(t, p.host, size)
		}
		a.control.Close()
		eventually(t, "the association ends with its connection", 5*time.Second, func() bool {
			a.send(p.host, 7, []byte("late"))
			_, _, err := a.receive(100 * time.Millisecond)
			return err != nil
		})
	}
}

// assertEcho sends a datagram to the echo server at an address and checks the answer.
func (a *association) assertEcho(t *testing.T, host string, size int) {
	t.Helper()
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(rand.Uint32())
	}
	if err := a.send(host, 7, payload); err != nil {
		t.Fatal(err)
	}
	from, got, err := a.receive(5 * time.Second)
	if err != nil {
		t.Errorf("no answer from %s to %d bytes: %v", host, size, err)
		return
	}
	if want := netip.MustParseAddrPort(net.JoinHostPort(host, echoPort)); from != want {
		t.Errorf("answer to %d bytes comes from %v, want %v", size, from, want)
	}
	if !bytes.Equal(got, payload) {
		t.Errorf("%s: sent %d bytes, got %d bytes that differ", host, size, len(got))
	}
}
