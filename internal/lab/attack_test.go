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

// What hostile programs, which have no key, or have one and are greedy, leave of the service that
// honest clients get.

// leastKept is how much of what honest clients try has to succeed, in percent.
const leastKept = 80

func assertKept(t *testing.T, attack string, kept, of int) {
	t.Helper()
	t.Logf("%s: honest clients kept %d of %d", attack, kept, of)
	if of == 0 || 100*kept < leastKept*of {
		t.Errorf("%s: %d of %d, want %d %%", attack, kept, of, leastKept)
	}
}

// attacked is a host under attack and the outside, where honest clients and an attacker have an
// address each:
//
//	host 10.5.0.1 ──────── 10.5.0.2 (honest), 10.5.0.66 (attacker) outside
type attacked struct{ host, outside *netns }

const attackedAddr, honestAddr, attackerAddr = "10.5.0.1", "10.5.0.2", "10.5.0.66"

func newAttacked(t *testing.T) attacked {
	t.Helper()
	a := attacked{newNetns(t, "host"), newNetns(t, "outside")}
	link(a.host, "wan", a.outside, "wan")
	a.host.addr("wan", attackedAddr+"/24")
	a.outside.addr("wan", honestAddr+"/24", attackerAddr+"/24")
	return a
}

// handshakeLimit is how long an honest handshake may take: less than the five seconds after which
// WireGuard tries again.
const handshakeLimit = 3 * time.Second

// shake has stock WireGuard devices make a handshake each with the host and returns how many came
// about in time.
func (a attacked) shake(responder key.NodePublic, clients []key.NodePrivate) (done int) {
	t := a.host.t
	t.Helper()
	p := a.outside.role("handshakes", asRoot, attackedAddr+":"+strconv.Itoa(gatePort), base64Of([key.Size]byte(responder)))
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

// Garbage at the UDP port of a node that others begin handshakes with, in a trickle or as fast as
// one sender can, keeps few of them from it.
func TestHandshakesUnderGarbage(t *testing.T) {
	const clients = 20
	a := newAttacked(t)
	own, dir := key.NewNodePrivate(), newDir(t, "host")
	var peers []key.NodePrivate
	text := "[Interface]\nPrivateKey = " + base64Of(own.Raw()) + "\nAddress = 10.77.0.1/24\nListenPort = " + strconv.Itoa(gatePort) + "\n"
	for i := range 3 * clients {
		k := key.NewNodePrivate()
		peers = append(peers, k)
		text += fmt.Sprintf("[Peer]\nPublicKey = %s\nAllowedIPs = 10.77.0.%d/32\n", base64Of([key.Size]byte(k.Public())), i+2)
	}
	g := startGinnel(a.host, own, "up", "--wireguard", writeFile(t, dir+"/wg.conf", text), "--proxy", "127.0.0.1:0")
	assertKept(t, "no garbage", a.shake(own.Public(), peers[:clients]), clients)
	for i, rate := range []int{8 << 10, 0} {
		attack := fmt.Sprintf("garbage at %d bytes a second", rate)
		if rate == 0 {
			attack = "garbage at line rate"
		}
		p := a.outside.role("garbage", asRoot, attackerAddr, attackedAddr+":"+strconv.Itoa(gatePort), strconv.Itoa(rate))
		p.await(&p.out, readyLine, dialTimeout)
		assertKept(t, attack, a.shake(own.Public(), peers[(i+1)*clients:(i+2)*clients]), clients)
		p.kill()
	}
	g.end()
}

// Whoever sees the packets of a handshake and answers it before the responder does, without the key
// but with points of low order, spoils nothing.
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
		t.Errorf("%d responses were forged, so the test shows little", forged)
	}
}

// attackedControl is a coordination server on the host.
type attackedControl struct {
	attacked
	*process
	dir     string
	authKey string // with which nodes join
}

const attackedURL = "http://" + attackedAddr + ":8080"

func (a attacked) startControl() *attackedControl {
	t := a.host.t
	t.Helper()
	c := &attackedControl{attacked: a, dir: newDir(t, "control")}
	c.process = a.host.start("server", ginnelCommand(c.dir, "control", "serve", "--url", attackedURL, "--stun", "none", "--state", c.dir))
	c.await(&c.log, "coordination server is up", dialTimeout)
	t.Cleanup(func() { assertSound(t, "the server", c.log.String()) })
	c.admin("users", "create", "ann")
	c.authKey = strings.TrimSpace(c.admin("keys", "create", "--user", "ann", "--reusable", "--ephemeral"))
	return c
}

// admin runs a command against the server and returns what it has printed.
func (c *attackedControl) admin(args ...string) string {
	c.t.Helper()
	return mustDo(c.t, c.host.run(ginnelCommand(c.dir, append(append([]string{"control"}, args...), "--state", c.dir)...), ""))
}

// joinLimit is how long an honest machine may take to come in, or to be told where it is approved.
const joinLimit = 10 * time.Second

// join has honest machines come in, half of them with a key, and half to be approved, and returns
// how many could.
func (c *attackedControl) join(n int) (joined int) {
	t := c.t
	t.Helper()
	for i := range n {
		args := []string{"up", "--control", attackedURL, "--hostname", fmt.Sprint("honest", i), "--proxy", "127.0.0.1:0", "--state", "mem:"}
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

// Channels that strangers hold idle, and logins that nobody will ever approve, keep no honest
// machine out.
func TestStrangersAtTheServer(t *testing.T) {
	const tries = 10
	c := newAttacked(t).startControl()
	assertKept(t, "no strangers", c.join(tries), tries)
	for _, attack := range []string{"channels", "logins"} {
		p := c.outside.role("strangers", asRoot, attack, attackerAddr, attackedURL, "5000")
		p.await(&p.out, readyLine, 90*time.Second)
		assertKept(t, attack+" of strangers", c.join(tries), tries)
		p.kill()
	}
}

// A peer that sends to thousands of addresses behind a router at once leaves room for the flows of
// others.
func TestGreedyPeerOfARouter(t *testing.T) {
	const tries = 50
	a := newAttacked(t)
	behind := newNetns(t, "behind")
	link(a.host, "lan", behind, "wan")
	a.host.addr("lan", "10.9.0.1/24")
	behind.addr("wan", "10.9.0.2/24")
	behind.route("10.9.0.1", "default")
	behind.startServices("behind")
	c := a.startControl()
	up := func(ns *netns, proxy string, flags ...string) *ginnel {
		args := []string{"up", "--control", attackedURL, "--authkey", c.authKey, "--proxy", proxy, "--state", "mem:"}
		return startGinnel(ns, key.NewNodePrivate(), append(args, flags...)...)
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
	eventually(t, "the way through the router is open", dialTimeout, exchange)
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
	if arrived := behind.closedPorts() - closed; arrived < leastGreed {
		t.Errorf("%d datagrams of the greedy peer have arrived, so the test shows little", arrived)
	}
}

// leastGreed is more flows than a router has room for.
const leastGreed = 2000

// closedPorts counts the UDP datagrams to ports that nobody has open in the namespace.
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
	n.t.Fatalf("no count of UDP in %s", text)
	return 0
}
