package node

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"ginnel/control"
	"ginnel/control/server"
)

// hostDNS is the host's network of an exit node, with a nameserver at 192.0.2.53.
type hostDNS struct {
	conf   string // as /etc/resolv.conf
	server net.Addr
}

func newHostDNS(t *testing.T, names map[string][]netip.Addr) *hostDNS {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go dnsServer(pc, names)
	h := &hostDNS{conf: filepath.Join(t.TempDir(), "resolv.conf"), server: pc.LocalAddr()}
	if err := os.WriteFile(h.conf, []byte("search example.org\nnameserver 192.0.2.53\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// dial is Config.DialHost of the exit node.
func (h *hostDNS) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if network != "udp" || addr != "192.0.2.53:53" {
		return nil, errors.New("nothing else is there")
	}
	var d net.Dialer
	return d.DialContext(ctx, network, h.server.String())
}

// exitDNSNetwork has an exit node with a nameserver, and a node that leaves through it.
func exitDNSNetwork(t *testing.T, names map[string][]netip.Addr, change ...func(*server.Config)) (n *network, exit,
	leaver *member) {
	t.Helper()
	n = newNetwork(t, change...)
	host := newHostDNS(t, names)
	everywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	exit = n.join("gate", func(c *Config) { c.Control.AdvertiseRoutes, c.DialHost = everywhere, host.dial })
	exit.ingress.exitDNS.conf = host.conf
	eventually(t, "the exit node has joined", exit.member.hasJoined)
	n.admin("POST", "/api/v1/nodes/"+exit.id()+"/routes", `{"approved": ["0.0.0.0/0", "::/0"]}`)
	leaver = n.join("alpha", func(c *Config) {
		c.Control.ExitNode = "gate"
		c.DialHost = func(context.Context, string, string) (net.Conn, error) {
			t.Error("alpha's host was asked")
			return nil, errors.New("not this way")
		}
	})
	eventually(t, "the exit node is there", func() bool {
		return leaver.member.hasJoined() && leaver.plane.netmap.Load().ExitLost == ""
	})
	return n, exit, leaver
}

// With an exit node, its nameservers resolve names outside the mesh, and the host's resolver is not
// asked.
func TestExitNodeAnswers(t *testing.T) {
	asked := countHostQuestions(t)
	_, _, a := exitDNSNetwork(t, map[string][]netip.Addr{"www.example.com.": single4(7)})
	if got, err := a.dialer.lookup(t.Context(), "www.example.com"); err != nil || !slices.Equal(got, single4(7)) {
		t.Errorf("got %v, %v", got, err)
	}
	_, err := a.dialer.lookup(t.Context(), "missing.example.com")
	if missing, ok := errors.AsType[*net.DNSError](err); !ok || !missing.IsNotFound {
		t.Errorf("a name that does not exist: %v", err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d questions to the host's resolver", n)
	}
}

// query sends a query to the exit node as a peer does. It returns the HTTP status, 0 if there is no
// response, and the answer.
func (n *member) query(t *testing.T, exit *member, req *http.Request) (int, *dns.Msg) {
	t.Helper()
	port := strconv.Itoa(int(exit.ingress.exitDNS.port))
	req.URL.Scheme, req.URL.Host, req.RequestURI = "http", net.JoinHostPort("gate", port), ""
	client := n.HTTPClient()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	if resp.StatusCode == http.StatusOK {
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode, m
}

func packed(t *testing.T, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func postQuery(b []byte) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/dns-query", bytes.NewReader(b))
	r.Header.Set("Content-Type", "application/dns-message")
	return r
}

// The exit node answers queries in both forms of RFC 8484. It does not resolve withheld names, and
// reports what is wrong with a request.
func TestExitNodeQueries(t *testing.T) {
	_, exit, a := exitDNSNetwork(t, map[string][]netip.Addr{"www.example.com.": single4(7)}, func(c *server.Config) {
		c.DNS = control.DNSConfig{ExitNodeFilteredSet: []string{"secret.example.com", ".corp.example"}}
	})
	ask := func(name string) []byte { return packed(t, new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)) }
	get := func(text string) *http.Request {
		return httptest.NewRequest(http.MethodGet, "/dns-query?dns="+text, nil)
	}
	other := httptest.NewRequest(http.MethodPost, "/v0/put/file", strings.NewReader("x"))
	plain := postQuery(ask("www.example.com"))
	plain.Header.Set("Content-Type", "text/plain")
	twice := new(dns.Msg).SetQuestion("a.example.", dns.TypeA)
	twice.Question = append(twice.Question, twice.Question[0])
	for what, c := range map[string]struct {
		req     *http.Request
		status  int
		rcode   int
		answers int
	}{
		"by POST":           {postQuery(ask("www.example.com")), 200, dns.RcodeSuccess, 1},
		"by GET":            {get(base64.RawURLEncoding.EncodeToString(ask("www.example.com"))), 200, dns.RcodeSuccess, 1},
		"no such name":      {postQuery(ask("missing.example.com")), 200, dns.RcodeNameError, 0},
		"of the mesh":       {postQuery(ask("alpha.net.example")), 200, dns.RcodeNameError, 0},
		"withheld":          {postQuery(ask("secret.example.com")), 200, dns.RcodeRefused, 0},
		"below withheld":    {postQuery(ask("a.corp.example")), 200, dns.RcodeRefused, 0},
		"a transfer":        {postQuery(packed(t, new(dns.Msg).SetAxfr("example.com."))), 200, dns.RcodeRefused, 0},
		"an update":         {postQuery(packed(t, new(dns.Msg).SetUpdate("example.com."))), 200, dns.RcodeNotImplemented, 0},
		"no base64":         {get("!"), 400, 0, 0},
		"nothing":           {get(""), 400, 0, 0},
		"no DNS":            {postQuery([]byte("hello")), 400, 0, 0},
		"two questions":     {postQuery(packed(t, twice)), 400, 0, 0},
		"too long":          {postQuery(make([]byte, 1<<17)), 400, 0, 0},
		"not said to be":    {plain, 400, 0, 0},
		"of the peer API":   {other, 404, 0, 0},
		"by another method": {httptest.NewRequest(http.MethodPut, "/dns-query", nil), 400, 0, 0},
	} {
		status, m := a.query(t, exit, c.req)
		if status != c.status {
			t.Errorf("%s: status %d, want %d", what, status, c.status)
		} else if status == http.StatusOK && (m.Rcode != c.rcode || len(m.Answer) != c.answers) {
			t.Errorf("%s: %v, want %s and %d answers", what, m, dns.RcodeToString[c.rcode], c.answers)
		}
	}
}

// Only peers that may reach the Internet through the exit node are answered, on a port that no rule
// of the policy names.
func TestExitNodeRefuses(t *testing.T) {
	n, exit, a := exitDNSNetwork(t, map[string][]netip.Addr{"www.example.com.": single4(7)})
	policy := `{"hosts": {"alpha": "` + a.Status().Self.Addresses[0].String() + `"}, "acls": [
		{"action": "accept", "src": ["alpha"], "dst": ["autogroup:internet:*"]},
		{"action": "accept", "src": ["*"], "dst": ["*:1"]}]}`
	if _, err := n.srv.SetPolicy(t.Context(), []byte(policy)); err != nil {
		t.Fatal(err)
	}
	b := n.join("beta")
	eventually(t, "beta knows the exit node", func() bool { return len(b.Status().Peers) > 0 })
	ask := func(m *member) int {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		query := packed(t, new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA))
		status, _ := m.query(t, exit, postQuery(query).WithContext(ctx))
		return status
	}
	eventually(t, "the policy is in force", func() bool { return ask(b) == 0 })
	if status := ask(a); status != http.StatusOK {
		t.Errorf("who may leave: status %d, want 200", status)
	}
}

// A name that no server behind the exit node can resolve is refused, and the host's resolver is not
// asked.
func TestExitWithoutNameservers(t *testing.T) {
	asked := countHostQuestions(t)
	_, exit, a := exitDNSNetwork(t, nil)
	m := *a.plane.netmap.Load()
	m.DNS.Servers = nil // as if the exit node answered no DNS queries
	if err := a.SetMap(m); err != nil {
		t.Fatal(err)
	}
	addrs, err := a.dialer.lookup(t.Context(), "www.example.com")
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "behind the exit node") {
		t.Errorf("%v, %v; want a refusal", addrs, err)
	}
	if n := asked.Load(); n != 0 || exit.life.isClosed() {
		t.Errorf("%d questions to the host's resolver", n)
	}
}

// A node that is no exit node has no such server, and announces none.
func TestNoExitNoDNS(t *testing.T) {
	n := newNetwork(t)
	a := n.join("alpha", func(c *Config) {
		c.Control.AdvertiseRoutes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	})
	if s := a.ingress.exitDNS.services(); a.ingress.exitDNS != nil || len(s) != 0 {
		t.Errorf("services %v", s)
	}
}
