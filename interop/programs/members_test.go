package programs

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	nodepkg "ginnel/node"
)

// regard waits until all nodes of a mesh but one regard that one as they should.
func (m *mesh) regard(who node, as presence) {
	m.t.Helper()
	for _, n := range m.nodes {
		if n != who {
			says(m.t, n, as, who)
		}
	}
}

// says waits until a node says of another what it should.
func says(t *testing.T, n node, as presence, of node) {
	t.Helper()
	name := of.machine().name
	var last presence
	defer func() {
		if last != as {
			t.Errorf("%s says %s of %s, want %s", n.machine().name, last, name, as)
		}
	}()
	took := eventually(t, n.machine().name+" says "+string(as)+" of "+name, func() bool {
		last = n.sees(name)
		return last == as
	})
	t.Logf("%s says %s of %s after %v", n.machine().name, as, name, took.Round(time.Millisecond))
}

// vanish proves that all others say of a node whether it is there, when it is killed and when it
// comes back.
func (m *mesh) vanish(n node) {
	m.t.Helper()
	m.regard(n, online)
	n.program().kill()
	m.regard(n, offline)
	n.up(m.server.url(), "")
	m.regard(n, online)
	m.recovered()
}

// expirer has a node log in again before it goes on.
type expirer func(t *testing.T, n node)

// expireOurs proves that a node of ours whose key is made to expire says that it needs a login,
// ends with a status that says so if it is started again without one, and comes back as what it
// was, with a key.
func (m *mesh) expireOurs(g *ginnel, expire expirer) {
	t := m.t
	t.Helper()
	address := g.address()
	expire(t, g)
	var s nodepkg.Status
	took := eventually(t, g.host.name+" needs a login", func() (done bool) {
		var err error
		s, err = g.status()
		return err == nil && s.State == nodepkg.StateNeedsLogin
	})
	t.Logf("%s needs a login after %v: %s", g.host.name, took.Round(time.Millisecond), s.Reason)
	if !strings.Contains(s.Reason, m.server.url()+"/register/") {
		t.Errorf("%s gives as the reason %q", g.host.name, s.Reason)
	}
	g.process.stop()
	cmd := g.upCommand(m.server.url(), "")
	cmd.Args = append(cmd.Args, "--detach", "--timeout", "2s")
	out, err := try(cmd)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != unreadyStatus || !strings.Contains(out, m.server.url()+"/register/") {
		t.Errorf("%s without a login: %v\n%s", g.host.name, err, indent(out))
	}
	g.up(m.server.url(), m.key)
	if got := g.address(); got != address {
		t.Errorf("%s came back as %s, was %s", g.host.name, got, address)
	}
	m.recovered()
	m.present()
}

// expireStock proves the same of tailscaled, which needs no restart.
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
	m.recovered()
	m.present()
	if got := d.address(); got != address {
		t.Errorf("%s came back as %s, was %s", d.host.name, got, address)
	}
}

// registerAgain proves that tailscaled stays the node that it is when it gets a new key of its own.
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
	m.recovered()
	m.present()
	after, err := d.status()
	if err != nil {
		t.Fatal(err)
	}
	if b, a := before.Self, after.Self; a.PublicKey == b.PublicKey || a.TailscaleIPs[0] != b.TailscaleIPs[0] || a.DNSName != b.DNSName {
		t.Errorf("%s came back as %s, %s, %v; was %s, %s, %v", d.host.name,
			a.PublicKey.ShortString(), a.DNSName, a.TailscaleIPs, b.PublicKey.ShortString(), b.DNSName, b.TailscaleIPs)
	}
}

// logOut proves that tailscaled is nobody's peer any more when it has logged out. What tailscaled
// keeps of it is that it is offline, and our node forgets it.
func (m *mesh) logOut(d *tailscaled, ours *ginnel, theirs *tailscaled) {
	t := m.t
	t.Helper()
	address := d.address()
	run(t, d.cli("logout"))
	says(t, ours, unknown, d)
	says(t, theirs, offline, d)
	for _, n := range []node{ours, theirs} {
		if (flow{n, d, address, servicePort}).passes(denyLimit) {
			t.Errorf("%s reaches %s, which has logged out", n.machine().name, d.host.name)
		}
	}
	if s, err := d.status(); err != nil || s.BackendState != "NeedsLogin" {
		t.Errorf("%s has logged out: %v, %+v", d.host.name, err, s)
	}
}

// TestServerMembers proves what our server, our node and tailscaled make of nodes that vanish,
// register again, expire and log out.
func TestServerMembers(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	s := startOurServer(t, relay)
	m := newMesh(t, s, relay)
	alpha, beta, gamma := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta")), newTailscaled(t, newHost(t, "gamma"))
	m.join(alpha, beta, gamma)
	m.vanish(alpha)
	m.vanish(beta)
	m.registerAgain(beta)
	expire := func(t *testing.T, n node) { t.Helper(); run(t, s.admin("nodes", "expire", n.machine().name)) }
	m.expireOurs(alpha, expire)
	m.expireStock(beta, expire)
	m.logOut(gamma, alpha, beta)
}

// TestHeadscaleMembers proves what our node and tailscaled make of the same on headscale.
func TestHeadscaleMembers(t *testing.T) {
	t.Parallel()
	relay := startDerper(t)
	s := startHeadscale(t, relay)
	m := newMesh(t, s, relay)
	alpha, beta, gamma := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta")), newTailscaled(t, newHost(t, "gamma"))
	m.join(alpha, beta, gamma)
	m.vanish(alpha)
	m.vanish(beta)
	m.registerAgain(beta)
	m.expireOurs(alpha, s.expire)
	m.logOut(gamma, alpha, beta)
}

// TestTakeOver proves that nodes that have lost their state, of either make, take the name and the
// addresses of what they were before with a key that says so, and only once that is offline.
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
		t.Errorf("a second alpha has the address %s of the first, which is there", got)
	}
	second.process.stop()
	run(t, s.admin("nodes", "delete", "alpha-1"))

	for _, n := range []struct{ before, after node }{
		{alpha, newGinnel(t, newHost(t, "alpha"))},
		{beta, newTailscaled(t, newHost(t, "beta"))},
	} {
		name, address := n.before.machine().name, n.before.address()
		n.before.program().kill()
		m.regard(n.before, offline)
		n.after.up(s.url(), m.key)
		if got := n.after.address(); got != address {
			t.Errorf("the new %s is %s, the old one was %s", name, got, address)
		}
		for i := range m.nodes {
			if m.nodes[i] == n.before {
				m.nodes[i] = n.after
			}
		}
		m.recovered()
		m.present()
		m.regard(n.after, online)
	}
}
