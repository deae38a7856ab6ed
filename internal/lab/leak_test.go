//go:build lab

package lab

import (
	"net/netip"
	"strings"
	"testing"

	"ginnel/key"
)

// Which DNS questions a node sends on its local network, seen by a capture of every packet there:
//
//	client 10.5.0.2 ──────── 10.5.0.1 host ──────── internet 203.0.113.9
//	                         (server, relay, exit node, nameserver)

const siteAddr = "203.0.113.9"

// With an exit node, no DNS question leaves the client in the clear, and only the exit's nameserver
// is asked. With --mesh-only, no nameserver is asked at all. Without these flags a node asks on its
// local network, which proves that the capture works.
func TestNamesDoNotLeak(t *testing.T) {
	a := newTarget(t)
	internet := newNetns(t, "internet")
	link(a.host, "far", internet, "wan")
	a.host.addr("far", "192.0.2.1/30") // not the site's network: exit nodes do not lead to their own neighbours
	a.host.route("192.0.2.2", "203.0.113.0/24")
	internet.addr("wan", "192.0.2.2/30", siteAddr+"/24")
	internet.route("192.0.2.1", "default")
	internet.startServices("site")
	a.host.forward()
	a.host.writeEtc("resolv.conf", "nameserver "+targetAddr+"\n")
	a.outside.writeEtc("resolv.conf", "nameserver "+targetAddr+"\n")
	a.outside.route(targetAddr, "default")
	site := []netip.Addr{netip.MustParseAddr(siteAddr)}
	names := a.host.startDNS(zone{"plain.example.": site, "secret.example.": site, "hidden.example.": site})
	c := a.startControl()
	up := func(ns *netns, flags ...string) *ginnel {
		args := []string{"up", "--control", controlURL, "--authkey", c.authKey, "--state", "mem:"}
		g := startGinnel(ns, key.NewNodePrivate(), append(args, flags...)...)
		g.await(&g.log, `"msg":"node joined"`, dialTimeout)
		return g
	}
	up(a.host, "--hostname", "exit", "--proxy", "127.0.0.1:0", "--advertise-exit-node")
	c.admin("nodes", "routes", "approve", "exit")
	wire := a.outside.startCapture()
	fetch := func(name string) result {
		return a.outside.tool(curl("--socks5-hostname", defaultProxy, "http://"+name+"/")...)
	}
	const page = "site for "

	for _, step := range []struct {
		name       string
		flags      []string
		reached    bool
		inTheClear bool // a question on the client's wire
		asked      bool // the nameserver got the question from some host
	}{
		{"plain.example", nil, true, true, true},
		{"secret.example", []string{"--exit-node", "exit"}, true, false, true},
		{"hidden.example", []string{"--mesh-only"}, false, false, false},
	} {
		g := up(a.outside, append([]string{"--hostname", "client"}, step.flags...)...)
		wire.questions("")
		r := fetch(step.name)
		if got := strings.Contains(r.stdout, page); got != step.reached {
			t.Errorf("%s with %q: got %q %q, want the page: %v", step.name, step.flags, r.stdout, r.stderr, step.reached)
		}
		label, _, _ := strings.Cut(step.name, ".")
		if found, of := wire.questions(label); len(found) > 0 != step.inTheClear {
			t.Errorf("%s with %q: of %d packets on the client's wire %d are DNS, want any: %v\n%s",
				step.name, step.flags, of, len(found), step.inTheClear, strings.Join(found, "\n"))
		}
		if got := strings.Contains(names.out.String(), "asked for "+step.name); got != step.asked {
			t.Errorf("%s with %q: the nameserver was asked: %v, want %v", step.name, step.flags, got, step.asked)
		}
		g.terminate()
	}
}
