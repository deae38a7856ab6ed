//go:build lab

package lab

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

// labZone holds the records of the DNS server behind the peer.
func labZone() zone {
	inner4, inner6 := netip.MustParseAddr(innerAddr4), netip.MustParseAddr(innerAddr6)
	return zone{
		"web.corp.example.":     {inner4},
		"six.corp.example.":     {inner6},
		"both.corp.example.":    {inner6, inner4},
		"big.corp.example.":     {inner4},
		"halfdead.example.":     {netip.MustParseAddr("fd88::dead"), inner4},
		"outside.corp.example.": {netip.MustParseAddr(clientAddr4)},
	}
}

// startNameServers starts two DNS servers: inside is the one that a site's WireGuard file names,
// outside is the one in the resolv.conf of the client's host.
func (s *site) startNameServers() (inside, outside *process) {
	s.t.Helper()
	s.client.writeEtc("resolv.conf", "nameserver 198.51.100.1\n")
	return s.inner.startDNS(labZone()), s.router.startDNS(zone{"host.example.": {netip.MustParseAddr(innerAddr4)}})
}

// The DNS servers of the file resolve names through the tunnel, with its search domains, over TCP
// if the answer over UDP is truncated, and for all protocols of the proxy. The resolver of the host
// gets none of these questions.
func TestNamesResolveThroughTheTunnel(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inside, outside := s.startNameServers()
	s.up(wgFile{iface: []string{"DNS = " + innerAddr4 + ", corp.example"}})
	for _, host := range []string{"web.corp.example", "WEB.corp.example", "web.corp.example.", "web", "six",
		"both.corp.example", "big.corp.example", "big", "halfdead.example"} {
		for _, f := range fetchers() {
			if f.name == "curl --socks5" || f.name == "curl -x socks4" {
				continue // these resolve the name themselves, on the host
			}
			r := s.client.run(command{as: asRoot, args: f.args(defaultProxy, host)}, f.input)
			if r.status != 0 || !strings.Contains(r.stdout, "inner for ") {
				t.Errorf("%s %s: status %d, got %q %q, want the page of the inner host", f.name, host, r.status, r.stdout, r.stderr)
			}
		}
	}
	if !strings.Contains(inside.out.String(), "big.corp.example. TypeA over tcp") {
		t.Errorf("the truncated answer was not asked for over TCP:\n%s", tail(inside.out.String()))
	}
	if asked := outside.out.String(); asked != readyLine+"\n" {
		t.Errorf("the host's DNS server was asked:\n%s", asked)
	}
}

// A datagram to a name goes to the address that the tunnel's DNS server gives.
func TestDatagramsToNames(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startNameServers()
	s.up(wgFile{iface: []string{"DNS = " + innerAddr4 + ", corp.example"}})
	a, err := s.client.associate(defaultProxy)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web.corp.example", "six", "web.corp.example"} {
		if err := a.send(name, 7, []byte("by name")); err != nil {
			t.Fatal(err)
		}
		if _, got, err := a.receive(dialTimeout); err != nil || string(got) != "by name" {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

// If a name does not exist, or the DNS server does not answer, the dial fails in time with an error
// that says which.
func TestNamesThatFail(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startNameServers()
	g := s.up(wgFile{iface: []string{"DNS = " + innerAddr4 + ", corp.example"}}, "--dial-timeout", "4s")
	_, err := s.client.viaConnect(defaultProxy, "nosuch.corp.example:80")
	assertRefused(t, "unknown name", err, "502", "nosuch.corp.example", "no such name")
	r := s.client.tool(curl("--socks5-hostname", defaultProxy, "http://nosuch.corp.example/")...)
	const cannotConnect = 97 // curl's CURLE_PROXY
	if r.status != cannotConnect || !strings.Contains(r.stderr, "(4)") {
		t.Errorf("curl through SOCKS5 to an unknown name: status %d %q, want %d and reply 4, host unreachable", r.status,
			r.stderr, cannotConnect)
	}
	g.end()

	s.up(wgFile{iface: []string{"DNS = 10.88.0.99"}}, "--dial-timeout", "4s")
	_, err = s.client.viaConnect(defaultProxy, "web.corp.example:80")
	assertRefused(t, "silent DNS server", err, "504", "web.corp.example", "10.88.0.99")
}

// Without DNS in the file, the host's resolver is asked. With --mesh-only no resolver is asked,
// because no nameserver of the mesh is known.
func TestNamesWithoutDNSInTheFile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startNameServers()
	s.client.writeEtc("hosts", "127.0.0.1 localhost\n"+innerAddr4+" listed.example\n")
	g := s.up(wgFile{})
	for _, host := range []string{"host.example", "listed.example"} {
		r := s.client.tool(curl("--socks5-hostname", defaultProxy, "http://"+host+"/")...)
		if !strings.HasPrefix(r.stdout, "inner for") {
			t.Errorf("%s: got %q %q", host, r.stdout, r.stderr)
		}
	}
	g.end()
	s.up(wgFile{}, "--mesh-only")
	for host, want := range map[string]string{
		"host.example":   "no server in the mesh knows such names",
		"listed.example": "no server in the mesh knows such names",
		"localhost":      "outside the mesh",
	} {
		_, err := s.client.viaConnect(defaultProxy, host+":80")
		assertRefused(t, host+" with --mesh-only", err, "403", want, "--mesh-only is set")
	}
}

// assertRefused checks that err, an answer to CONNECT, contains all the wanted texts.
func assertRefused(t *testing.T, what string, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: connected, want an error", what)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: got %q, want %q in it", what, err, w)
		}
	}
}

// web is the address of the web page of a host.
func web(host string) string { return net.JoinHostPort(host, webPort) }
