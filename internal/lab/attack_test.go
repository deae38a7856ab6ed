//go:build lab

package lab

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"ginnel/key"
)

// These tests measure how much of the service honest clients keep while hostile programs attack.
// Some attackers have no key, others have a valid key and use too much.

// minKeptPercent is the share of honest attempts that has to succeed under attack.
const minKeptPercent = 80

func assertKept(t *testing.T, attack string, kept, of int) {
	t.Helper()
	t.Logf("%s: honest clients kept %d of %d", attack, kept, of)
	if of == 0 || 100*kept < minKeptPercent*of {
		t.Errorf("%s: %d of %d, want %d %%", attack, kept, of, minKeptPercent)
	}
}

// target is a host under attack and the network outside it. The honest clients and the attacker
// share the namespace outside, and each have an address in it:
//
//	host 10.5.0.1 ──────── 10.5.0.2 (honest), 10.5.0.66 (attacker) outside
type target struct{ host, outside *netns }

const targetAddr, honestAddr, attackerAddr = "10.5.0.1", "10.5.0.2", "10.5.0.66"

func newTarget(t *testing.T) target {
	t.Helper()
	a := target{newNetns(t, "host"), newNetns(t, "outside")}
	link(a.host, "wan", a.outside, "wan")
	a.host.addr("wan", targetAddr+"/24")
	a.outside.addr("wan", honestAddr+"/24", attackerAddr+"/24")
	return a
}

// handshakeLimit is how long an honest handshake may take. It is below REKEY-TIMEOUT, the five
// seconds after which WireGuard sends another initiation.
const handshakeLimit = 3 * time.Second

// completedHandshakes runs one stock WireGuard device per client key, each of which makes one
// handshake with the host. It returns how many were complete within handshakeLimit.
func (a target) completedHandshakes(responder key.NodePublic, clients []key.NodePrivate) (done int) {
	t := a.host.t
	t.Helper()
	p := a.outside.role("handshakes", asRoot, targetAddr+":"+strconv.Itoa(gatePort), base64Of([key.Size]byte(responder)))
	for _, k := range clients {
		fmt.Fprintln(p.in, base64Of(k.Raw()))
	}
	p.in.Close()
	line := p.await(&p.out, "handshakes done: ", time.Duration(len(clients)+10)*handshakeLimit)
	if _, err := fmt.Sscanf(line[strings.Index(line, "handshakes done"):], "handshakes done: %d", &done); err != nil {
		t.Fatal(err)
	}
	p.wait(endTimeout)
	return done
}

// Most handshakes succeed while one sender floods the node's UDP port with garbage, slowly or at
// line rate.
func TestHandshakesUnderGarbage(t *testing.T) {
	const clients = 20
	a := newTarget(t)
	own, dir := key.NewNodePrivate(), newDir(t, "host")
	var peers []key.NodePrivate
	text := "[Interface]\nPrivateKey = " + base64Of(own.Raw()) + "\nAddress = 10.77.0.1/24\nListenPort = " +
		strconv.Itoa(gatePort) + "\n"
	for i := range 3 * clients {
		k := key.NewNodePrivate()
		peers = append(peers, k)
		text += fmt.Sprintf("[Peer]\nPublicKey = %s\nAllowedIPs = 10.77.0.%d/32\n", base64Of([key.Size]byte(k.Public())), i+2)
	}
	g := startGinnel(a.host, own, "up", "--wireguard", writeFile(t, dir+"/wg.conf", text), "--proxy", "127.0.0.1:0")
	assertKept(t, "no garbage", a.completedHandshakes(own.Public(), peers[:clients]), clients)
	for i, rate := range []int{8 << 10, 0} {
		attack := fmt.Sprintf("garbage at %d bytes a second", rate)
		if rate == 0 {
			attack = "garbage at line rate"
		}
		p := a.outside.role("garbage", asRoot, attackerAddr, targetAddr+":"+strconv.Itoa(gatePort), strconv.Itoa(rate))
		p.await(&p.out, readyLine, dialTimeout)
		assertKept(t, attack, a.completedHandshakes(own.Public(), peers[(i+1)*clients:(i+2)*clients]), clients)
		p.kill()
	}
	g.end()
}

// An attacker on the path sees each initiation and answers before the responder does. It does not
// know the responder's key and uses low-order points. The handshake still succeeds in time.
func TestForgedResponses(t *testing.T) {
	const tries = 10
	s := newSite(t)
	forger := s.router.role("forge", asRoot, gateAddr4, base64Of([key.Size]byte(s.key.Public())))
	forger.await(&forger.out, readyLine, dialTimeout)
	kept := 0
	for range tries {
		g := s.up(wgFile{})
		start := time.Now()
		if err := s.client.fetch(innerAddr4); err == nil && time.Since(start) < handshakeLimit {
			kept++
		}
		g.end()
	}
	forged := strings.Count(forger.out.String(), "forged")
	forger.kill()
	if assertKept(t, "forged responses", kept, tries); forged < tries {
		t.Errorf("only %d responses were forged for %d handshakes, so the test proves little", forged, tries)
	}
}

// targetControl is a coordination server on the host under attack.
type targetControl struct {
	target
	*process
	dir     string
	authKey string // reusable, for the nodes of a test
}

const controlURL = "http://" + targetAddr + ":8080"

func (a target) startControl() *targetControl {
	t := a.host.t
	t.Helper()
	c := &targetControl{target: a, dir: newDir(t, "control")}
	c.process = a.host.start("server", ginnelCommand(c.dir, "control", "serve", "--url", controlURL, "--stun", "none",
		"--state", c.dir))
	c.await(&c.log, "coordination server is up", dialTimeout)
	t.Cleanup(func() { assertSound(t, "the server", c.log.String()) })
	c.admin("users", "create", "ann")
	c.authKey = strings.TrimSpace(c.admin("keys", "create", "--user", "ann", "--reusable", "--ephemeral"))
	return c
}

// admin runs an administration command against the server and returns its standard output.
func (c *targetControl) admin(args ...string) string {
	c.t.Helper()
	args = append(append([]string{"control"}, args...), "--state", c.dir)
	return mustDo(c.t, c.host.run(ginnelCommand(c.dir, args...), ""))
}

// joinLimit is how long an honest machine may take to join, or to be told where its join is
// approved.
const joinLimit = 10 * time.Second

// join starts n honest nodes one after another: half of them with an auth key, the others waiting
// for approval. It returns how many joined or were told where to be approved.
func (c *targetControl) join(n int) (joined int) {
	t := c.t
	t.Helper()
	for i := range n {
		args := []string{"up", "--control", controlURL, "--hostname", fmt.Sprint("honest", i), "--proxy", "127.0.0.1:0",
			"--state", "mem:"}
		want := "to be approved"
		if i%2 == 0 {
			args, want = append(args, "--authkey", c.authKey), `"msg":"node up"`
		}
		g := launchGinnel(c.outside, key.NewNodePrivate(), ginnelCommand(newDir(t, "home"), args...))
		for start := time.Now(); time.Since(start) < joinLimit; time.Sleep(10 * time.Millisecond) {
			if strings.Contains(g.log.String(), want) {
				joined++
				break
			}
		}
		g.terminate()
	}
	return joined
}

// Honest machines can join while unregistered clients hold thousands of idle channels, or have
// asked for thousands of logins that nobody will approve.
func TestUnregisteredClients(t *testing.T) {
	const tries = 10
	c := newTarget(t).startControl()
	assertKept(t, "no attack", c.join(tries), tries)
	for _, attack := range []string{"channels", "logins"} {
		p := c.outside.role("unregistered", asRoot, attack, attackerAddr, controlURL, "5000")
		p.await(&p.out, readyLine, 90*time.Second)
		assertKept(t, attack+" of unregistered clients", c.join(tries), tries)
		p.kill()
	}
}

// A peer that opens thousands of UDP flows through a subnet router at once leaves room for the
// flows of other peers.
func TestGreedyPeerOfARouter(t *testing.T) {
	const tries = 50
	a := newTarget(t)
	behind := newNetns(t, "behind")
	link(a.host, "lan", behind, "wan")
	a.host.addr("lan", "10.9.0.1/24")
	behind.addr("wan", "10.9.0.2/24")
	behind.route("10.9.0.1", "default")
	behind.startServices("behind")
	c := a.startControl()
	up := func(ns *netns, proxy string, flags ...string) *ginnel {
		args := []string{"up", "--control", controlURL, "--authkey", c.authKey, "--proxy", proxy, "--state", "mem:"}
		g := startGinnel(ns, key.NewNodePrivate(), append(args, flags...)...)
		g.await(&g.log, `"msg":"node joined"`, dialTimeout)
		return g
	}
	up(a.host, "127.0.0.1:0", "--hostname", "router", "--advertise-routes", "10.9.0.0/24")
	c.admin("nodes", "routes", "approve", "router")
	up(a.outside, "127.0.0.1:1081", "--hostname", "greedy", "--accept-routes")
	up(a.outside, "127.0.0.1:1082", "--hostname", "honest", "--accept-routes")
	honest, err := a.outside.associate("127.0.0.1:1082")
	if err != nil {
		t.Fatal(err)
	}
	exchange := func() bool {
		if err := honest.send("10.9.0.2", 7, []byte("honest")); err != nil {
			return false
		}
		_, got, err := honest.receive(2 * time.Second)
		return err == nil && string(got) == "honest"
	}
	eventually(t, "a datagram comes back through the router", dialTimeout, exchange)
	greedy, err := a.outside.associate("127.0.0.1:1081")
	if err != nil {
		t.Fatal(err)
	}
	closed := behind.closedPorts()
	kept, sent := 0, 0
	for range tries {
		for range 200 {
			port := uint16(1 + rand.IntN(1<<16-1)) // most of them closed
			if greedy.send("10.9.0.2", port, []byte("greedy")) == nil {
				sent++
			}
		}
		if exchange() {
			kept++
		}
	}
	assertKept(t, fmt.Sprintf("%d flows of a greedy peer", sent), kept, tries)
	if arrived := behind.closedPorts() - closed; arrived < minGreedyFlows {
		t.Errorf("only %d datagrams of the greedy peer arrived, so the test proves little", arrived)
	}
}

// minGreedyFlows is more than the number of UDP flows that a subnet router keeps.
const minGreedyFlows = 2000

// closedPorts returns the kernel's count of UDP datagrams to closed ports (NoPorts) in the
// namespace.
func (n *netns) closedPorts() (count int) {
	n.t.Helper()
	var text []byte
	err := n.do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var received int
		if _, err := fmt.Sscanf(line, "Udp: %d %d", &received, &count); err == nil {
			return count
		}
	}
	n.t.Fatalf("no UDP counters in %s", text)
	return 0
}
