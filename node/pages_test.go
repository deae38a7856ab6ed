package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"ginnel/proxy"
	"ginnel/relay"
	"ginnel/userstack"
)

// page fetches one of a node's own pages.
func page(t *testing.T, n *Node, method, path, token string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+n.Status().Proxies[0]+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func withProxy(c *Config) { c.Proxies = []net.Addr{tcp("127.0.0.1:0")} }

func TestPages(t *testing.T) {
	a, b := two(t, withProxy)
	b.serveHTTP(80, "x")
	eventually(t, "ready", func() bool { status, _, _ := page(t, a.Node, "GET", "/readyz", ""); return status == 200 })
	for path, want := range map[string]string{
		"/":          "beta",
		"/healthz":   "ok",
		"/readyz":    "ready",
		"/proxy.pac": "SOCKS5 127.0.0.1",
		"/metrics":   "ginnel_ready 1",
	} {
		if status, _, body := page(t, a.Node, "GET", path, ""); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d, %.200s", path, status, body)
		}
	}
	for path, want := range map[string]int{"/nothing": 404, "/api/v1/ping": 405, "/api/v2/status": 404} {
		if status, _, _ := page(t, a.Node, "GET", path, ""); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
	if status, _, body := page(t, a.Node, "POST", "/api/v1/ping?peer=beta", ""); status != 200 && status != 504 {
		t.Errorf("ping: %d %s", status, body)
	}
	if status, _, body := page(t, a.Node, "POST", "/api/v1/ping?peer=nobody", ""); status != 404 ||
		!strings.Contains(body, "no such peer") {
		t.Errorf("ping of nobody: %d %s", status, body)
	}
}

// A web page can make a browser send requests here.
func TestPingIsNotForWebPages(t *testing.T) {
	a, _ := two(t, withProxy)
	req, err := http.NewRequest("POST", "http://"+a.Status().Proxies[0]+"/api/v1/ping?peer=beta", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "http://web.example")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("status %d, want 403", resp.StatusCode)
	}
}

// On a listener that other machines reach, pages require the password, or the token in the state
// directory.
func TestPagesOnTheNetwork(t *testing.T) {
	m := newMesh(t)
	a := m.add("alpha")
	a.start(func(c *Config) {
		c.Proxies = []net.Addr{tcp("0.0.0.0:0")}
		c.ProxyAuth = func(_, password string) bool { return password == "right" }
	})
	_, port, err := net.SplitHostPort(a.Status().Proxies[0])
	if err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string]int{
		"": 401, "Bearer wrong": 401, "Bearer token": 200, "Basic dTp3cm9uZw==": 401, "Basic dTpyaWdodA==": 200,
	} {
		req, err := http.NewRequest("GET", "http://127.0.0.1:"+port+"/api/v1/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", header)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("Authorization: %q: status %d, want %d", header, resp.StatusCode, want)
		}
	}
}

// Scripts rely on the names in the JSON.
func TestStatusJSON(t *testing.T) {
	a, b := two(t, withProxy)
	b.serveHTTP(80, "x")
	if _, err := a.get("http://beta/"); err != nil {
		t.Fatal(err)
	}
	_, _, body := page(t, a.Node, "GET", "/api/v1/status", "")
	var s map[string]any
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, s, "state", "self", "proxies", "peers", "health")
	wantKeys(t, s["self"], "name", "addresses", "node_key", "relay")
	wantKeys(t, s["peers"].([]any)[0], "name", "addresses", "path", "relay", "rx_bytes", "tx_bytes", "last_handshake")
	if s["state"] != "running" || s["self"].(map[string]any)["relay"] != "test" {
		t.Errorf("status %s", body)
	}
	if _, err := time.Parse(time.RFC3339, s["peers"].([]any)[0].(map[string]any)["last_handshake"].(string)); err != nil {
		t.Error(err)
	}
}

func wantKeys(t *testing.T, v any, keys ...string) {
	t.Helper()
	got := slices.Sorted(maps.Keys(v.(map[string]any)))
	for _, k := range keys {
		if !slices.Contains(got, k) {
			t.Errorf("%q is missing in %v", k, got)
		}
	}
}

// A node that cannot reach its relay reports that, and what to do.
func TestNotReady(t *testing.T) {
	m := newMesh(t)
	a := m.add("alpha")
	m.srv.Close()
	a.start(withProxy)
	// The listener may still be closing at the first attempt.
	eventually(t, "a refusal", func() bool { return strings.Contains(a.Status().Reason, "refused") })
	s := a.Status()
	if s.State != StateStarting || !strings.Contains(s.Reason, "home relay test") ||
		s.Health[0].Code != "home-relay-unreachable" || s.Health[0].Mend == "" {
		t.Errorf("status %+v", s)
	}
	if status, _, body := page(t, a.Node, "GET", "/readyz", ""); status != 503 || !strings.Contains(body, "refused") {
		t.Errorf("readyz: %d %s", status, body)
	}
	if status, _, _ := page(t, a.Node, "GET", "/healthz", ""); status != 200 {
		t.Errorf("healthz: %d", status)
	}
}

// The error page of the proxy names the peer and the reason.
func TestProxyErrors(t *testing.T) {
	a, b := two(t, withProxy, func(c *Config) { c.DialTimeout = 300 * time.Millisecond; c.MeshOnly = true })
	eventually(t, "ready", func() bool { return a.Status().State == StateRunning })
	m := b.netmap(false)
	m.Filter = func(f userstack.Flow) bool { return f.Dst.Port() == 82 }
	if err := b.SetMap(m); err != nil {
		t.Fatal(err)
	}
	proxyURL := &url.URL{Scheme: "http", Host: a.Status().Proxies[0]}
	tr := &http.Transport{Proxy: http.ProxyURL(proxyURL)}
	defer tr.CloseIdleConnections()
	for target, want := range map[string]struct {
		status int
		text   string
	}{
		"http://beta:81/":      {504, "peer beta: no answer"},
		"http://beta:82/":      {502, "nothing listens on port 82 there"},
		"http://100.64.0.99/":  {502, "no peer has this address"},
		"http://192.0.2.1/":    {403, "--mesh-only"},
		"http://100.64.0.1:9/": {502, "nothing listens"},
	} {
		resp, err := tr.RoundTrip(must(http.NewRequest("GET", target, nil)))
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want.status || !strings.Contains(string(b), want.text) {
			t.Errorf("%s: %d %s, want %d with %q", target, resp.StatusCode, b, want.status, want.text)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A proxy that other machines reach does not connect them to services that listen on this machine
// only.
func TestProxyForOthersGuardsTheHost(t *testing.T) {
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
			c.Close()
		}
	}()
	for addr, allowed := range map[string]bool{"127.0.0.1:0": true, "[::1]:0": true, "0.0.0.0:0": false, ":0": false} {
		m := newMesh(t)
		a := m.add("alpha")
		a.start(func(c *Config) {
			c.Proxies = []net.Addr{tcp(addr)}
			c.ProxyAuth = func(string, string) bool { return true }
		})
		c, err := a.DialContext(t.Context(), "tcp", local.Addr().String())
		if c != nil {
			c.Close()
		}
		if (err == nil) != allowed {
			t.Errorf("proxy on %s: loopback dialled: %v, want allowed %v", addr, err, allowed)
		}
		a.Close()
	}
}

// Datagrams of one association go into the mesh and out of it, by address and by name.
func TestDatagrams(t *testing.T) {
	a, b := two(t)
	inside, err := b.ListenPacket(netip.MustParseAddrPort("100.64.0.2:7"))
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	outside, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	for _, pc := range []net.PacketConn{inside, outside} {
		go func() {
			buf := make([]byte, 1<<16)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				pc.WriteTo(buf[:n], from)
			}
		}()
	}
	c, err := a.dialer.listenDatagrams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	port := outside.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	buf := make([]byte, 1<<16)
	for i, dst := range []*proxy.Addr{
		{IP: b.addr, Port: 7}, {Name: "beta", Port: 7}, {IP: loopback, Port: port}, {Name: "localhost", Port: port},
		{Name: "BETA.", Port: 7},
	} {
		want := bytes.Repeat([]byte{byte(i)}, 1+i*10000)
		if _, err := c.WriteTo(want, dst); err != nil {
			t.Fatalf("to %v: %v", dst, err)
		}
		n, from, err := c.ReadFrom(buf)
		if err != nil || !bytes.Equal(buf[:n], want) || from.(*net.UDPAddr).AddrPort().Port() != dst.Port {
			t.Errorf("from %v to %v: %d bytes, %v", from, dst, n, err)
		}
	}
	for _, dst := range []*proxy.Addr{{IP: netip.MustParseAddr("100.64.0.99"), Port: 7},
		{Name: "nobody.invalid", Port: 7}} {
		if _, err := c.WriteTo([]byte("x"), dst); err == nil {
			t.Errorf("a datagram to %v was taken", dst)
		}
	}
	done := make(chan error)
	go func() { _, _, err := c.ReadFrom(buf); done <- err }()
	c.Close()
	if err := <-done; err == nil {
		t.Error("ReadFrom got something after Close")
	}
	if _, err := c.WriteTo([]byte("x"), &proxy.Addr{Name: "other.invalid", Port: 7}); err == nil {
		t.Error("WriteTo after Close succeeded")
	}
}

func TestMetricsAreComplete(t *testing.T) {
	a, b := two(t, withProxy)
	b.serveHTTP(80, "x")
	if _, err := a.get("http://beta/"); err != nil {
		t.Fatal(err)
	}
	twins := a.netmap(false)
	twins.Relays = relay.Map{Regions: maps.Clone(twins.Relays.Regions)}
	twins.Relays.Regions[901] = &relay.Region{RegionID: 901, RegionCode: "test"} // codes need not be unique
	if err := a.SetMap(twins); err != nil {
		t.Fatal(err)
	}
	_, _, body := page(t, a.Node, "GET", "/metrics", "")
	peer := fmt.Sprintf(`{peer="%v"}`, b.key.Public())
	for _, want := range []string{"ginnel_peer_received_bytes_total" + peer, "ginnel_peer_direct" + peer + " 0",
		`ginnel_relay_connected{name="test",region="900"} 1`, "go_goroutines"} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is missing", want)
		}
	}
}
