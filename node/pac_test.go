package node

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
)

// pacAnswer is the decision of a browser about a host.
type pacAnswer struct {
	Mesh  bool   // it comes to the proxy
	Asked string // the name that the browser asked of its own resolver
}

// browse evaluates a file as a browser does, with a resolver of its own.
func browse(t *testing.T, pac string, resolver map[string]string, hosts []string) map[string]pacAnswer {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("not installed: node")
	}
	in, err := json.Marshal(map[string]any{"resolver": resolver, "hosts": hosts})
	if err != nil {
		t.Fatal(err)
	}
	script := pac + "\nvar test = " + string(in) + `, answers = {}, asked;
function dnsResolve(host) { asked = host; return test.resolver[host] || null; }
test.hosts.forEach(function (host) {
	asked = "";
	var result = FindProxyForURL("http://" + host + "/", host);
	if (result != "DIRECT" && result != "SOCKS5 127.0.0.1:1080; PROXY 127.0.0.1:1080") throw result;
	answers[host] = {Mesh: result != "DIRECT", Asked: asked};
});
console.log(JSON.stringify(answers));`
	cmd := exec.CommandContext(t.Context(), node, "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	var answers map[string]pacAnswer
	if err == nil {
		err = json.Unmarshal(out, &answers)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return answers
}

// Names and addresses of the mesh go to the proxy, in both families. Names are not resolved
// elsewhere for that.
func TestPACFile(t *testing.T) {
	m := &NetworkMap{Name: "self", Domain: "net.example", Addresses: prefixes("100.64.0.2/32", "fd7a:115c:a1e0::2/128"),
		DNS: DNS{Search: []string{"net.example.", "Search.Example"},
			Routes:  map[string][]Nameserver{"corp.example": nil, "deep.net.example": nil, "64.100.in-addr.arpa": nil},
			Records: map[string][]netip.Addr{"extra.example.org": nil}},
		Peers: []Peer{
			{Name: "peer", Addresses: prefixes("100.64.0.3/32")},
			{Name: "db.alice.other.example", Addresses: prefixes("100.64.0.4/32")},
			{Name: "top.level", Addresses: prefixes("100.64.0.5/32")},
			{Name: `evil");throw("`, Addresses: prefixes("10.1.0.0/16", "fd00:1::/32", "10.1.2.0/24")},
		}}
	mesh, own := pacAnswer{Mesh: true}, pacAnswer{}
	asked := func(a pacAnswer, name string) pacAnswer { a.Asked = name; return a }
	want := map[string]pacAnswer{
		"peer": mesh, "PEER": mesh, "self": mesh, "peer.net.example": mesh, "peer.net.example.": mesh,
		"x.search.example": mesh,
		"corp.example":     mesh, "git.corp.example": mesh, "extra.example.org": mesh, "db.alice.other.example": mesh,
		"top.level":  mesh,
		"100.64.0.3": mesh, "100.127.255.255": mesh, "10.1.255.1": mesh, "100.128.0.1": own, "10.2.0.1": own,
		"fd7a:115c:a1e0::3": mesh, "[fd7a:115c:a1e0::3]": mesh, "fd7a:115c:a1e1::3": own, "fd00:1:2::": mesh,
		"fd00:2::1": own, "::ffff:10.1.0.1": mesh,
		"localhost": own, "x.localhost": own, "127.0.0.1": own, "::1": own, "fe80::1%eth0": own, "169.254.169.254": own,
		"xcorp.example": asked(own, "xcorp.example"), "other.level": asked(own, "other.level"),
		"in.example": asked(mesh, "in.example"), "six.example": asked(mesh, "six.example"),
		"out.example": asked(own, "out.example"),
	}
	var hosts []string
	for h := range want {
		hosts = append(hosts, h)
	}
	resolver := map[string]string{"in.example": "10.1.0.9", "six.example": "2001:db8::1;fd7a:115c:a1e0::9",
		"out.example": "192.0.2.1"}
	pac := pacFile("127.0.0.1:1080", m)
	for h, got := range browse(t, pac, resolver, hosts) {
		if got != want[h] {
			t.Errorf("%s: %+v, want %+v", h, got, want[h])
		}
	}
	if strings.Contains(pac, "evil") || strings.Contains(pac, "arpa") || strings.Contains(pac, "deep.net") ||
		strings.Contains(pac, "10.1.2.0") {
		t.Errorf("more than is needed:\n%s", pac)
	}
}

// If the mesh has a default route, or resolves every name, all hosts except this one go to the
// proxy.
func TestPACFileForEverything(t *testing.T) {
	for name, m := range map[string]*NetworkMap{
		"exit":    {Peers: []Peer{{Addresses: prefixes("0.0.0.0/0", "::/0")}}},
		"servers": {DNS: DNS{Servers: Nameservers(netip.MustParseAddr("10.0.0.53"))}},
		"routes":  {DNS: DNS{Routes: map[string][]Nameserver{"": nil}}},
	} {
		answers := browse(t, pacFile("127.0.0.1:1080", m), nil,
			[]string{"web.example", "192.0.2.1", "2001:db8::1", "127.0.0.1", "localhost", "fe80::1"})
		for host, got := range answers {
			isAddress := host == "192.0.2.1" || host == "2001:db8::1" || host == "fe80::1"
			want := pacAnswer{Mesh: host == "web.example" || isAddress && name == "exit"}
			if got != want {
				t.Errorf("%s: %s: %+v, want %+v", name, host, got, want)
			}
		}
	}
}

// The file is as long for many peers as for few, and contains every address.
func TestPACFileOfManyPeers(t *testing.T) {
	named := func(n int) *NetworkMap {
		m := &NetworkMap{Domain: "net.example"}
		for i := range n {
			a := netip.AddrFrom4([4]byte{100, 64 + byte(i>>16), byte(i >> 8), byte(i)})
			m.Peers = append(m.Peers, Peer{Name: fmt.Sprintf("peer-%d", i), Addresses: []netip.Prefix{netip.PrefixFrom(a, 32)}})
		}
		return m
	}
	if few, many := len(pacFile("h:1", named(2))), len(pacFile("h:1", named(20000))); few != many {
		t.Errorf("%d bytes for 2 peers, %d for 20000", few, many)
	}
	var hosts []string
	scattered := &NetworkMap{}
	for i := range 5000 {
		a := netip.AddrFrom4([4]byte{10, byte(i * 7), byte(i * 13 >> 4), byte(i*2 + i>>7)})
		six := netip.AddrFrom16([16]byte{0xfd, byte(i), byte(i >> 8), 15: byte(i * 3)})
		scattered.Peers = append(scattered.Peers,
			Peer{Addresses: []netip.Prefix{netip.PrefixFrom(a, 32), netip.PrefixFrom(six, 128)}})
		hosts = append(hosts, a.String(), six.String())
	}
	pac := pacFile("127.0.0.1:1080", scattered)
	if len(pac) > 12000 {
		t.Errorf("%d bytes for peers without a prefix in common", len(pac))
	}
	for host, got := range browse(t, pac, nil, append(hosts, "192.0.2.1")) {
		if got.Mesh != (host != "192.0.2.1") {
			t.Errorf("%s: %+v", host, got)
		}
	}
}
