//go:build lab

package lab

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

// labZone is what the DNS server behind the peer knows.
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

// startNameServers starts the DNS server that a site's file names, and one on the client's own
// network that nobody must ask.
func (s *site) startNameServers() (inside, outside *process) {
	s.t.Helper()
	s.client.writeEtc("resolv.conf", "nameserver 198.51.100.1\n")
	return s.inner.startDNS(labZone()), s.router.startDNS(zone{"host.example.": {netip.MustParseAddr(innerAddr4)}})
}

// Names are resolved by the file's DNS servers through the tunnel, with its search domains, over
// TCP where UDP does not carry the answer, for all protocols of the proxy; the host's resolver
// hears of none of them.
func TestNamesResolveThroughTheTunnel(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inside, outside := s.startNameServers()
	s.up(wgFile{iface: []string{"DNS = " + innerAddr4 + ", corp.example"}})
	for _, host := range []string{"web.corp.example", "WEB.corp.example", "web.corp.example.", "web", "six", "both.corp.example", "big.corp.example", "big", "halfdead.example"} {
		for _, f := range fetchers() {
			if f.name == "curl --socks5" || f.name == "curl -x socks4" {
				continue // these resolve by themselves, on the host
			}
			r := s.client.run(command{rights: asRoot, args: f.args(defaultProxy, host)}, f.input)
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

// A datagram to a name goes where the tunnel's DNS server says.
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

// A name that does not exist, or a DNS server that cannot be reached, is told in words and in time.
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
		t.Errorf("curl through SOCKS5 to an unknown name: status %d %q, want %d and reply 4, host unreachable", r.status, r.stderr, cannotConnect)
	}
	g.end()

	s.up(wgFile{iface: []string{"DNS = 10.88.0.99"}}, "--dial-timeout", "4s")
	_, err = s.client.viaConnect(defaultProxy, "web.corp.example:80")
	assertRefused(t, "silent DNS server", err, "504", "web.corp.example", "10.88.0.99")
}

// Without DNS in the file, names go to the host's resolver. With --mesh-only nobody is asked,
// because the mesh knows no names.
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

// assertRefused checks an answer to CONNECT.
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

// web is the address of a host's page.
func web(host string) string { return net.JoinHostPort(host, webPort) }
