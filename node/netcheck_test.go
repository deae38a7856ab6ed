package node

import (
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// relay6 makes the relay reachable over IPv6 only.
func (m *mesh) relay6() {
	t := m.t
	t.Helper()
	conf, pin, err := relayserver.SelfSignedTLS(t.TempDir(), "::1")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	m.wg.Go(func() { m.srv.Serve(ln, m.srv.TLSConfig(conf)) })
	m.wg.Go(func() { m.srv.ServeSTUN(pc) })
	m.relays.Regions[region].Nodes = []*relay.Node{{Name: "900a", RegionID: region, HostName: "::1", CertName: pin,
		IPv4: "none", IPv6: "::1",
		DERPPort: ln.Addr().(*net.TCPAddr).Port, STUNPort: pc.LocalAddr().(*net.UDPAddr).Port}}
}

// check checks the network by the relays of the mesh.
func (m *mesh) check(change ...func(*Config)) NetReport {
	m.t.Helper()
	cfg := Config{Map: NetworkMap{Relays: m.relays}}
	for _, f := range change {
		f(&cfg)
	}
	r, err := NetCheck(m.t.Context(), cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	return r
}

func TestNetCheck(t *testing.T) {
	m := newMesh(t)
	r := m.check(func(c *Config) { c.UDPAddr = loopback })
	if !r.UDP || !r.IPv4 || r.IPv6 || r.GlobalV4.Addr() != loopback || r.Mapping != MappingNone || r.Proxy != "" ||
		r.InspectedBy != "" {
		t.Errorf("over IPv4: %+v", r)
	}
	if l := r.Relays[0]; r.Home != "test" || l.Region != region || l.Transport != "udp" || l.LatencyMS <= 0 ||
		l.Error != "" {
		t.Errorf("over IPv4: home %q, %+v", r.Home, l)
	}
	r = m.check(func(c *Config) { c.RelayOnly = true })
	if l := r.Relays[0]; r.UDP || !r.IPv4 || r.Mapping != "" || r.Home != "test" || l.Transport != "https" ||
		l.LatencyMS <= 0 {
		t.Errorf("without UDP: %+v", r)
	}
	m.relays.Regions[region].Nodes[0].CertName = ""
	r = m.check(func(c *Config) { c.RelayOnly = true })
	if l := r.Relays[0]; r.InspectedBy == "" || l.Error == "" || l.Transport != "" || r.Home != "" {
		t.Errorf("a certificate by somebody unknown: %+v", r)
	}
}

func TestNetCheckOverIPv6(t *testing.T) {
	m := newMesh(t)
	m.relay6()
	r := m.check()
	if !r.UDP || r.IPv4 || !r.IPv6 || r.GlobalV6.Addr() != netip.IPv6Loopback() || r.GlobalV4.IsValid() ||
		r.Mapping != MappingNone {
		t.Errorf("UDP: %+v", r)
	}
	if l := r.Relays[0]; r.Home != "test" || l.Transport != "udp" || l.Error != "" {
		t.Errorf("UDP: home %q, %+v", r.Home, l)
	}
	r = m.check(func(c *Config) { c.RelayOnly = true })
	if r.UDP || r.IPv4 || !r.IPv6 || r.Relays[0].Transport != "https" || r.Home != "test" {
		t.Errorf("HTTPS: %+v", r)
	}
}

// Through a proxy, relays are measured by HTTPS, over both families. The report names the proxy
// without its password.
func TestNetCheckThroughProxy(t *testing.T) {
	for _, family := range []string{"IPv4", "IPv6"} {
		m := newMesh(t)
		if family == "IPv6" {
			m.relay6()
		}
		gate := m.add("gate")
		gate.start(withProxy, func(c *Config) {
			c.ProxyAuth = func(user, password string) bool { return user == "me" && password == "secret" }
		})
		for _, scheme := range []string{"http", "socks5"} {
			proxy := &url.URL{Scheme: scheme, Host: gate.Status().Proxies[0], User: url.UserPassword("me", "secret")}
			before := gate.ingress.proxy.Stats()
			r := m.check(func(c *Config) {
				c.RelayOnly = true
				c.OutboundProxy = func(*url.URL) (*url.URL, error) { return proxy, nil }
			})
			after := gate.ingress.proxy.Stats()
			if l := r.Relays[0]; r.UDP || r.IPv4 || r.IPv6 || l.Transport != "https" || l.LatencyMS <= 0 || l.Error != "" ||
				r.Home != "test" {
				t.Errorf("%s, %s: %+v", family, scheme, r)
			}
			if !strings.HasPrefix(r.Proxy, scheme+"://me:") || strings.Contains(r.Proxy, "secret") ||
				!strings.HasSuffix(r.Proxy, proxy.Host) {
				t.Errorf("%s, %s: proxy %q", family, scheme, r.Proxy)
			}
			if after.HTTP+after.SOCKS5 == before.HTTP+before.SOCKS5 {
				t.Errorf("%s, %s: the proxy was not used", family, scheme)
			}
		}
		wrong := &url.URL{Scheme: "http", Host: gate.Status().Proxies[0]}
		r := m.check(func(c *Config) {
			c.RelayOnly = true
			c.OutboundProxy = func(*url.URL) (*url.URL, error) { return wrong, nil }
		})
		if l := r.Relays[0]; !strings.Contains(l.Error, "407") && !strings.Contains(l.Error, "password") {
			t.Errorf("%s, without the password: %+v", family, l)
		}
	}
}
