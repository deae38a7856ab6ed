package programs

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	nodepkg "ginnel/node"
)

// awaitPresence waits until all other nodes of the mesh show the presence of who as wanted.
func (m *mesh) awaitPresence(who node, as presence) {
	m.t.Helper()
	for _, n := range m.nodes {
		if n != who {
			awaitPresence(m.t, n, as, who)
		}
	}
}

// awaitPresence waits until n shows the presence of another node as wanted.
func awaitPresence(t *testing.T, n node, as presence, of node) {
	t.Helper()
	name := of.machine().name
	var last presence
	defer func() {
		if last != as {
			t.Errorf("%s shows %s for %s, want %s", n.machine().name, last, name, as)
		}
	}()
	took := eventually(t, n.machine().name+" shows "+string(as)+" for "+name, func() bool {
		last = n.sees(name)
		return last == as
	})
	t.Logf("%s shows %s for %s after %v", n.machine().name, as, name, took.Round(time.Millisecond))
}

// killAndRestart proves that all other nodes show a node as offline when it is killed, and as
// online when it returns.
func (m *mesh) killAndRestart(n node) {
	m.t.Helper()
	m.awaitPresence(n, online)
	n.program().kill()
	m.awaitPresence(n, offline)
	n.up(m.server.url(), "")
	m.awaitPresence(n, online)
	m.awaitRecovery()
}

// expirer makes the key of a node expire, so that it has to log in again.
type expirer func(t *testing.T, n node)

// expireOurs proves that our node with an expired key says that it needs a login. Started again
// without a key, it exits with a status that says so. With a key, it returns with the same address.
func (m *mesh) expireOurs(g *ginnel, expire expirer) {
	t := m.t
	t.Helper()
	address := g.address()
	expire(t, g)
	var s nodepkg.Status
	// The node says first that its key has expired, and then where it can be let in.
	took := eventually(t, g.host.name+" needs a login", func() (done bool) {
		var err error
		s, err = g.status()
		return err == nil && s.State == nodepkg.StateNeedsLogin && strings.Contains(s.Reason, m.server.url()+"/register/")
	})
	t.Logf("%s needs a login after %v: %s", g.host.name, took.Round(time.Millisecond), s.Reason)
	g.process.stop()
	cmd := g.upCommand(m.server.url(), "")
	cmd.Args = append(cmd.Args, "--detach", "--timeout", "2s")
	out, err := try(cmd)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != unreadyStatus ||
		!strings.Contains(out, m.server.url()+"/register/") {
		t.Errorf("%s without a key: %v\n%s", g.host.name, err, indent(out))
	}
	g.up(m.server.url(), m.key)
	if got := g.address(); got != address {
		t.Errorf("%s came back as %s, was %s", g.host.name, got, address)
	}
	m.awaitRecovery()
	m.awaitConnected()
}

// expireStock proves the same for tailscaled, which needs no restart.
func (m *mesh) expireStock(d *tailscaled, expire expirer) {
	t := m.t
	t.Helper()
	address := d.address()
	expire(t, d)
	took := eventually(t, d.host.name+" needs a login", func() bool {
		s, err := d.status()
		return err == nil && s.BackendState == "NeedsLogin"
	})
	t.Logf("%s needs a login after %v", d.host.name, took.Round(time.Millisecond))
	run(t, d.upCommand(m.server.url(), m.key))
	m.awaitRecovery()
	m.awaitConnected()
	if got := d.address(); got != address {
		t.Errorf("%s came back as %s, was %s", d.host.name, got, address)
	}
}

// registerAgain proves that tailscaled keeps its name and address when it logs in with a new node
// key.
func (m *mesh) registerAgain(d *tailscaled) {
	t := m.t
	t.Helper()
	before, err := d.status()
	if err != nil {
		t.Fatal(err)
	}
	cmd := d.upCommand(m.server.url(), m.key)
	cmd.Args = append(cmd.Args, "--force-reauth")
	run(t, cmd)
	m.awaitRecovery()
	m.awaitConnected()
	after, err := d.status()
	if err != nil {
		t.Fatal(err)
	}
	if b, a := before.Self, after.Self; a.PublicKey == b.PublicKey || a.TailscaleIPs[0] != b.TailscaleIPs[0] ||
		a.DNSName != b.DNSName {
		t.Errorf("%s came back as %s, %s, %v; was %s, %s, %v", d.host.name,
			a.PublicKey.ShortString(), a.DNSName, a.TailscaleIPs, b.PublicKey.ShortString(), b.DNSName, b.TailscaleIPs)
	}
}

// logOut proves that a logged out tailscaled is no longer a peer: our node forgets it, and another
// tailscaled shows it as offline.
func (m *mesh) logOut(d *tailscaled, ours *ginnel, theirs *tailscaled) {
	t := m.t
	t.Helper()
	address := d.address()
	run(t, d.cli("logout"))
	awaitPresence(t, ours, unknown, d)
	awaitPresence(t, theirs, offline, d)
	for _, n := range []node{ours, theirs} {
		if (flow{n, d, address, servicePort}).passes(denyLimit) {
			t.Errorf("%s reaches %s, which has logged out", n.machine().name, d.host.name)
		}
	}
	if s, err := d.status(); err != nil || s.BackendState != "NeedsLogin" {
		t.Errorf("state of %s after its logout: %v, %+v", d.host.name, err, s)
	}
}

// TestServerMembers proves how our node and tailscaled, on our server, handle nodes that disappear,
// register again, expire and log out.
func TestServerMembers(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	s := startOurServer(t, relay)
	m := newMesh(t, s, relay)
	alpha, beta, gamma := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta")),
		newTailscaled(t, newHost(t, "gamma"))
	m.join(alpha, beta, gamma)
	m.killAndRestart(alpha)
	m.killAndRestart(beta)
	m.registerAgain(beta)
	expire := func(t *testing.T, n node) { t.Helper(); run(t, s.admin("nodes", "expire", n.machine().name)) }
	m.expireOurs(alpha, expire)
	m.expireStock(beta, expire)
	m.logOut(gamma, alpha, beta)
}

// TestHeadscaleMembers proves the same on headscale, except for the expiry of tailscaled's key.
func TestHeadscaleMembers(t *testing.T) {
	t.Parallel()
	relay := startDerper(t)
	s := startHeadscale(t, relay)
	m := newMesh(t, s, relay)
	alpha, beta, gamma := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta")),
		newTailscaled(t, newHost(t, "gamma"))
	m.join(alpha, beta, gamma)
	m.killAndRestart(alpha)
	m.killAndRestart(beta)
	m.registerAgain(beta)
	m.expireOurs(alpha, s.expire)
	m.logOut(gamma, alpha, beta)
}

// TestTakeOver proves that a node of either make that has lost its state gets its former name and
// address back with a take-over key, but only while the former node is offline.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	s := startOurServer(t, relay)
	m := newMesh(t, s, relay)
	alpha, beta := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta"))
	m.join(alpha, beta)
	m.key = s.key(t, "--user", "ann", "--reusable", "--take-over")

	second := newGinnel(t, newHost(t, "alpha"))
	second.up(s.url(), m.key)
	if got := second.address(); got == alpha.address() {
		t.Errorf("a second alpha has the address %s of the first, which is online", got)
	}
	second.process.stop()
	run(t, s.admin("nodes", "delete", "alpha-1"))

	for _, n := range []struct{ before, after node }{
		{alpha, newGinnel(t, newHost(t, "alpha"))},
		{beta, newTailscaled(t, newHost(t, "beta"))},
	} {
		name, address := n.before.machine().name, n.before.address()
		n.before.program().kill()
		m.awaitPresence(n.before, offline)
		n.after.up(s.url(), m.key)
		if got := n.after.address(); got != address {
			t.Errorf("the new %s is %s, the old one was %s", name, got, address)
		}
		for i := range m.nodes {
			if m.nodes[i] == n.before {
				m.nodes[i] = n.after
			}
		}
		m.awaitRecovery()
		m.awaitConnected()
		m.awaitPresence(n.after, online)
	}
}
