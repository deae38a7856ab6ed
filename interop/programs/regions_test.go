package programs

import (
	"encoding/json"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"tailscale.com/net/netcheck"

	nodepkg "ginnel/node"
)

// A region whose STUN answers take farDelay longer than those of our server's own relay.
const (
	farID    = 901
	farCode  = "far"
	farDelay = 50 * time.Millisecond
)

// ownID is the region of the relay in our server.
const ownID = 900

// TestServerRegions proves that tailscaled and our node agree on two regions of our server: on
// their latencies and on which is home. 'tailscale ping' names the region that it uses.
func TestServerRegions(t *testing.T) {
	t.Parallel()
	far := *startGinnelRelay(t)
	far.stun = delayUDP(t, netip.AddrPortFrom(hub, far.stun), farDelay)
	s := newOurServer(t, "http", hub)
	s.ownRelay(t)
	s.args = append(s.args, "--derp-map", far.writeMap(t, farID, farCode))
	s.startFirst(t)
	m := newMesh(t, s, nil)
	alpha, beta := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta"))
	m.join(alpha, beta)
	m.reachAll()

	theirs := checkRegions(t, beta)
	ours := checkOwnRegions(t, alpha)
	if theirs != ours {
		t.Errorf("home is %q for tailscaled and %q for our node", theirs, ours)
	}
	out := run(t, beta.cli("ping", "-c", "1", "--until-direct=false", "alpha"))
	pong := regexp.MustCompile(`^pong from alpha \((\S+)\) via DERP\((\S+)\) in (\S+)\n$`).FindStringSubmatch(out)
	if pong == nil || pong[1] != alpha.address().String() || pong[2] != theirs {
		t.Fatalf("tailscale ping: %s, want a pong of %s through %s", out, alpha.address(), theirs)
	}
	if d, err := time.ParseDuration(pong[3]); err != nil || d >= farDelay {
		t.Errorf("tailscale ping took %s", pong[3])
	}
}

// checkRegions checks tailscaled's report on both regions and returns the code of its home region.
func checkRegions(t *testing.T, d *tailscaled) string {
	t.Helper()
	out := run(t, d.cli("netcheck", "--format", "json"))
	var r netcheck.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("tailscale netcheck: %v\n%s", err, indent(out))
	}
	if near := r.RegionLatency[ownID]; r.PreferredDERP != ownID || len(r.RegionLatency) != 2 || near <= 0 ||
		near >= farDelay || r.RegionLatency[farID] < farDelay {
		t.Errorf("tailscale netcheck:\n%s", indent(out))
	}
	text := run(t, d.cli("netcheck"))
	shown := regexp.MustCompile(`- ` + farCode + `: ([0-9.]+)ms`).FindStringSubmatch(text)
	if shown == nil {
		t.Fatalf("tailscale netcheck does not show the latency of %s:\n%s", farCode, indent(text))
	}
	if ms, err := strconv.ParseFloat(shown[1], 64); err != nil || time.Duration(ms*float64(time.Millisecond)) < farDelay {
		t.Errorf("tailscale netcheck shows %sms for %s", shown[1], farCode)
	}
	s, err := d.status()
	if err != nil {
		t.Fatal(err)
	}
	return s.Self.Relay
}

// checkOwnRegions does the same for our node.
func checkOwnRegions(t *testing.T, g *ginnel) string {
	t.Helper()
	out := run(t, exec.Command(binary("ginnel"), "netcheck", "--json", "--state", g.state()))
	var r nodepkg.NetReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("ginnel netcheck: %v\n%s", err, indent(out))
	}
	latency := make(map[int]time.Duration)
	for _, one := range r.Relays {
		latency[one.Region] = time.Duration(one.LatencyMS * float64(time.Millisecond))
	}
	if near := latency[ownID]; !r.UDP || !r.IPv4 || len(latency) != 2 || near <= 0 || near >= farDelay ||
		latency[farID] < farDelay {
		t.Errorf("ginnel netcheck:\n%s", indent(out))
	}
	return r.Home
}

// delayUDP forwards datagrams from the port that it returns to target, and sends the answers back
// after delay.
func delayUDP(t *testing.T, target netip.AddrPort, delay time.Duration) uint16 {
	t.Helper()
	front, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(hub, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { front.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := front.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			request := append([]byte(nil), buf[:n]...)
			go func() {
				if answer, err := askUDP(target, request); err == nil {
					time.Sleep(delay)
					front.WriteToUDPAddrPort(answer, from)
				}
			}()
		}
	}()
	return netip.MustParseAddrPort(front.LocalAddr().String()).Port()
}

// askUDP sends a datagram and returns the answer to it.
func askUDP(target netip.AddrPort, request []byte) ([]byte, error) {
	c, err := net.Dial("udp", target.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(waitLimit))
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	answer := make([]byte, 1500)
	n, err := c.Read(answer)
	return answer[:n], err
}
