package programs

import (
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// hostDNS is a nameserver in the hub, used by the hosts of exit nodes.
type hostDNS struct {
	t *testing.T

	mu    sync.Mutex
	asked map[string][]netip.Addr // source addresses of the questions, by name
}

// outsideName is known to hostDNS only. Its address is that of the internet site.
const outsideName = "site.outside.example."

func startHostDNS(t *testing.T) *hostDNS {
	t.Helper()
	d := &hostDNS{t: t, asked: make(map[string][]netip.Addr)}
	pc, err := net.ListenPacket("udp", netip.AddrPortFrom(hub, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: d}
	go s.ActivateAndServe()
	t.Cleanup(func() { pc.Close() })
	return d
}

// ServeDNS implements dns.Handler.
func (d *hostDNS) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	from, _ := netip.ParseAddrPort(w.RemoteAddr().String())
	name := dns.CanonicalName(q.Question[0].Name)
	d.mu.Lock()
	d.asked[name] = append(d.asked[name], from.Addr())
	d.mu.Unlock()
	r := new(dns.Msg).SetReply(q)
	switch {
	case name != outsideName:
		r.Rcode = dns.RcodeNameError
	case q.Question[0].Qtype == dns.TypeA:
		r.Answer = append(r.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: outsideName, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: outside.AsSlice()})
	}
	w.WriteMsg(r)
}

// askers returns the addresses that have asked for outsideName.
func (d *hostDNS) askers() []netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := slices.Clone(d.asked[outsideName])
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// withResolver makes a command see another /etc/resolv.conf, in its own mount namespace.
func withResolver(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	file := writeText(t, filepath.Join(t.TempDir(), "resolv.conf"), "nameserver "+hub.String()+"\n")
	args := slices.Clone(cmd.Args)
	at := slices.Index(args, "-n") + 1 // the end of nsenter's own arguments
	args = slices.Insert(args, at, "unshare", "-m", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, file)
	wrapped := exec.Command(args[0], args[1:]...)
	wrapped.Env = cmd.Env
	return wrapped
}

// TestServerExitDNS proves that an exit node of either make resolves names outside the mesh for a
// client of the other make, through its own host's nameserver, and that no client asks that
// nameserver itself.
func TestServerExitDNS(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	s := startOurServer(t, relay)
	names := startHostDNS(t)
	m := newMesh(t, s, relay)
	_, port, err := net.SplitHostPort(startInternetSite(t))
	if err != nil {
		t.Fatal(err)
	}
	site := net.JoinHostPort(outsideName[:len(outsideName)-1], port)
	alpha, beta := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta"))
	alpha.wrap, beta.wrap = withResolver, withResolver
	alpha.args, beta.args = []string{"--advertise-exit-node"}, []string{"--advertise-exit-node"}
	gamma, delta := newGinnel(t, newHost(t, "gamma")), newTailscaled(t, newHost(t, "delta"))
	gamma.args = []string{"--exit-node", "beta"}
	m.join(alpha, beta, gamma, delta)
	s.approveRoutes(t, "alpha")
	s.approveRoutes(t, "beta")
	useExitNode(t, delta, "alpha")

	for _, c := range []struct{ client, exit node }{{delta, alpha}, {gamma, beta}} {
		exit := c.exit.machine().addr
		awaitAnswer(t, c.client, site, exit.String())
		if got := names.askers(); !slices.Contains(got, exit) {
			t.Errorf("%v asked the nameserver of the exit node's host, want %s", got, exit)
		}
	}
	for _, c := range []node{gamma, delta} {
		if slices.Contains(names.askers(), c.machine().addr) {
			t.Errorf("%s asked the nameserver itself although it uses an exit node", c.machine().name)
		}
	}
}
