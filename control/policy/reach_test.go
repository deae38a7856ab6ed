package policy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"ginnel/internal/filter"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// network is the nodes of the tables below. Node N has the addresses 100.64.0.N and
// fd7a:115c:a1e0::N.
func network() []Node {
	nodes := []Node{
		{ID: 1, User: "alice"},
		{ID: 2, User: "alice@"},
		{ID: 3, User: "bob@example.com"},
		{ID: 4, User: "alice", Tags: []string{"tag:web"}},
		{ID: 5, Tags: []string{"tag:db"}},
		{ID: 6, Tags: []string{"tag:router"}, Routes: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16")}},
		{ID: 7, Tags: []string{"tag:exit"}, ExitNode: true},
		{ID: 8, User: "carol"},
	}
	for i, n := range nodes {
		nodes[i].Addrs = []netip.Addr{addr(fmt.Sprintf("100.64.0.%d", n.ID)), addr(fmt.Sprintf("fd7a:115c:a1e0::%d", n.ID))}
	}
	return nodes
}

// place is a possible source or destination of a packet.
type place struct {
	name  string
	node  int64 // the node at which, or behind which, the place is
	addrs []netip.Addr
}

func places() []place {
	var all []place
	for _, n := range network() {
		all = append(all, place{fmt.Sprint(n.ID), n.ID, n.Addrs})
	}
	return append(all,
		place{"lan", 6, []netip.Addr{addr("10.20.1.1")}},
		place{"net", 7, []netip.Addr{addr("8.8.8.8"), addr("2001:db8::1")}},
		place{"private", 7, []netip.Addr{addr("192.168.7.7")}},
	)
}

var services = []string{"tcp/22", "tcp/80", "udp/53", "sctp/80", "gre", "ping"}

// packet returns the first packet of a flow.
func packet(src, dst netip.Addr, service string) []byte {
	name, portText, _ := strings.Cut(service, "/")
	proto := map[string]byte{"tcp": 6, "udp": 17, "sctp": 132, "gre": 47, "ping": 1}[name]
	body := make([]byte, 20)
	body[12], body[13] = 0x50, 2 // SYN
	if name == "ping" {
		body[0] = 8
		if src.Is6() {
			proto, body[0] = 58, 128
		}
	} else {
		var port uint16
		fmt.Sscan(portText, &port)
		binary.BigEndian.PutUint16(body, 50000)
		binary.BigEndian.PutUint16(body[2:], port)
	}
	var b []byte
	if src.Is4() {
		b = make([]byte, 12)
		b[0], b[3], b[8], b[9] = 0x45, 40, 64, proto
	} else {
		b = []byte{0x60, 0, 0, 0, 0, 20, proto, 64}
	}
	return slices.Concat(b, src.AsSlice(), dst.AsSlice(), body)
}

// filters returns the packet filter of each node under a policy.
func filters(t *testing.T, c *Compiled) map[int64]*filter.Filter {
	t.Helper()
	all := make(map[int64]*filter.Filter)
	for _, n := range network() {
		var local []netip.Prefix
		for _, a := range n.Addrs {
			local = append(local, netip.PrefixFrom(a, a.BitLen()))
		}
		local = append(local, n.Routes...)
		if n.ExitNode {
			local = append(local, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
		}
		all[n.ID] = new(filter.Filter)
		if err := all[n.ID].Set(filter.Config{Rules: c.Rules(n.ID), Local: local}); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// sections reads a file of tables. Each has a line "== NAME", a policy, a line "--" and the
// expected result.
func sections(t testing.TB, file string) map[string][2]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][2]string)
	for _, section := range strings.Split(string(text), "\n== ")[1:] {
		name, rest, _ := strings.Cut(section, "\n")
		source, want, ok := strings.Cut(rest, "\n--\n")
		if _, twice := all[name]; !ok || twice {
			t.Fatalf("section %q of %s has no table, or is given twice", name, file)
		}
		all[name] = [2]string{source, strings.TrimSpace(want)}
	}
	return all
}

// expand parses the lines of a table, "SOURCES > DESTINATIONS: SERVICES". Each part is "*" or a
// list separated by spaces.
func expand(t *testing.T, lines string) map[string]bool {
	t.Helper()
	var names []string
	for _, p := range places() {
		names = append(names, p.name)
	}
	words := func(s string, all []string) []string {
		if strings.TrimSpace(s) == "*" {
			return all
		}
		for _, word := range strings.Fields(s) {
			if !slices.Contains(all, word) {
				t.Fatalf("the table has %q", word)
			}
		}
		return strings.Fields(s)
	}
	flows := make(map[string]bool)
	for line := range strings.Lines(lines) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		src, rest, ok1 := strings.Cut(line, ">")
		dst, what, ok2 := strings.Cut(rest, ":")
		if !ok1 || !ok2 {
			t.Fatalf("the table has the line %q", line)
		}
		for _, s := range words(src, names) {
			for _, d := range words(dst, names) {
				for _, service := range words(what, services) {
					flows[s+" > "+d+": "+service] = true
				}
			}
		}
	}
	return flows
}

// Each policy allows exactly the flows of its table. Every place sends the first packet of every
// service to every other place, in both families, through the packet filters of the nodes. Two
// nodes see each other exactly if a flow between them is allowed.
func TestReach(t *testing.T) {
	for name, parts := range sections(t, "testdata/reach.txt") {
		t.Run(name, func(t *testing.T) {
			checkReach(t, parse(t, parts[0]).Compile(network()), expand(t, parts[1]))
		})
	}
	t.Run("no policy", func(t *testing.T) {
		var p *Policy
		checkReach(t, p.Compile(network()), expand(t, "* > *: tcp/22 tcp/80 udp/53 ping"))
	})
}

func checkReach(t *testing.T, c *Compiled, want map[string]bool) {
	t.Helper()
	doors := filters(t, c)
	see := make(map[[2]int64]bool)
	for _, src := range places() {
		for _, dst := range places() {
			if src.node == dst.node {
				continue
			}
			for _, service := range services {
				flow := src.name + " > " + dst.name + ": " + service
				for _, from := range src.addrs {
					for _, to := range dst.addrs {
						if from.BitLen() != to.BitLen() {
							continue
						}
						got := doors[dst.node].In(packet(from, to, service))
						if got != want[flow] {
							t.Errorf("%s (%v to %v): got %v, want %v", flow, from, to, got, want[flow])
						}
						// Packets from behind an exit node do not make nodes see each other.
						if got && src.name != "net" && src.name != "private" {
							see[[2]int64{src.node, dst.node}], see[[2]int64{dst.node, src.node}] = true, true
						}
					}
				}
			}
		}
	}
	for _, n := range network() {
		id := fmt.Sprint(n.ID)
		uses := func(where string) bool {
			return slices.ContainsFunc(services, func(s string) bool {
				return want[id+" > "+where+": "+s] || where == "lan" && slices.ContainsFunc(places(), func(p place) bool {
					return p.node == n.ID && want["lan > "+p.name+": "+s]
				})
			})
		}
		lan, net := netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("0.0.0.0/0")
		if got, want := c.MayUse(n.ID, 6, lan), uses("lan"); got != want && n.ID != 6 {
			t.Errorf("%d may use the route to the lan: got %v, want %v", n.ID, got, want)
		}
		if got, want := c.MayUse(n.ID, 7, net), uses("net"); got != want && n.ID != 7 {
			t.Errorf("%d may use the exit node: got %v, want %v", n.ID, got, want)
		}
	}
	for _, a := range network() {
		for _, b := range network() {
			if got, want := c.MaySee(a.ID, b.ID), see[[2]int64{a.ID, b.ID}]; a.ID != b.ID && got != want {
				t.Errorf("%d may see %d: got %v, want %v", a.ID, b.ID, got, want)
			}
		}
	}
}
