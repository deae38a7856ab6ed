package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/control"
)

// logTo makes the server log to out, from level Info on.
func logTo(out io.Writer) func(*Config) {
	return func(c *Config) { c.Log = slog.New(slog.NewTextHandler(out, nil)) }
}

// idle opens a connection on which no node registers, because its registration is refused.
func (p *peer) idle() {
	p.t.Helper()
	_, refused := p.register(func(r *control.RegisterRequest) { *r = control.RegisterRequest{} })
	if refused != errNoNodeKey.Error() {
		p.t.Fatalf("refused with %q", refused)
	}
}

// Any number of idle connections from one address neither prevents a node at another address from
// joining, nor closes the connection of a node that waits. Addresses of one IPv6 network count as
// one.
func TestIdleConnectionsOfOneAddress(t *testing.T) {
	const limit = 8
	for _, flood := range []string{"198.51.100.%d", "2001:db8::%d", "::ffff:198.51.100.%d"} {
		var logged logBuffer
		adjust := func(c *Config) { logTo(&logged)(c); c.MaxUnregistered = limit }
		onNet(t, adjust, func(t *testing.T, n *testNet) {
			host := func(i int) string {
				if strings.HasPrefix(flood, "2001") {
					return fmt.Sprintf(flood, i+1)
				}
				return fmt.Sprintf(flood, 7)
			}
			for i := range 2 * limit {
				n.newPeerFrom(host(i), "idle").idle()
			}
			honest := n.newPeerFrom("192.0.2.1", "honest")
			resp, refused := honest.register(nil)
			if refused != "" || resp.AuthURL == "" {
				t.Fatalf("%s: a new node got %+v %s", flood, resp, refused)
			}
			honest.awaitLogin(resp.AuthURL)
			for i := range 2 * limit {
				n.newPeerFrom(host(i), "idle").idle()
			}
			settle()
			if l, ok := n.onlyLogin(); !ok || !l.Waiting {
				t.Errorf("%s: the new node's connection was closed: %+v", flood, l)
			}
			if _, unregistered := n.server.noiseConns.counts(); unregistered != limit {
				t.Errorf("%s: %d connections of unregistered machines, want %d", flood, unregistered, limit)
			}
			if !strings.Contains(logged.String(), `limit="connections of unregistered machines"`) {
				t.Errorf("%s: nothing is logged:\n%s", flood, logged.String())
			}
		})
	}
}

// A new machine replaces the oldest connection from its own address.
func TestManyMachinesOfOneAddress(t *testing.T) {
	onNet(t, func(c *Config) { c.MaxUnregistered = 2 }, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		first := n.newPeerFrom("192.0.2.1", "x")
		first.idle()
		n.newPeerFrom("192.0.2.1", "y").idle()
		third := n.newPeerFrom("192.0.2.1", "z")
		if resp, refused := third.register(withKey(k)); refused != "" || !resp.MachineAuthorized {
			t.Fatalf("a third machine got %+v %s", resp, refused)
		}
		settle()
		if _, unregistered := n.server.noiseConns.counts(); unregistered != 1 {
			t.Errorf("%d connections of unregistered machines, want 1: the first was closed, the third has a node", unregistered)
		}
	})
}

// Unfinished handshakes from one address end to make room for one from another address, and for the
// next from their own.
func TestHandshakesOfOneAddress(t *testing.T) {
	ncs := newNoiseConns()
	begin := func(remote string) (context.Context, *handshake) {
		ctx, h, oldest := ncs.beginHandshake(t.Context(), remote)
		if oldest != nil {
			oldest.cancel()
		}
		return ctx, h
	}
	honest, _ := begin("192.0.2.1:1")
	var flood []context.Context
	for i := range maxHandshakes + 9 {
		ctx, _ := begin(fmt.Sprintf("198.51.100.7:%d", 1+i))
		flood = append(flood, ctx)
	}
	late, last := begin("192.0.2.2:1")
	ended := 0
	for _, ctx := range flood {
		if ctx.Err() != nil {
			ended++
		}
	}
	if honest.Err() != nil || late.Err() != nil || ended != 11 || flood[10].Err() == nil || flood[11].Err() != nil {
		t.Errorf("%d handshakes of the flood ended, want the first 11; the others: %v, %v", ended, honest.Err(), late.Err())
	}
	ncs.endHandshake(last)
	if n := ncs.handshakes.Len(); n != maxHandshakes-1 {
		t.Errorf("%d handshakes, want %d", n, maxHandshakes-1)
	}
}

// Any number of logins from one address neither ends logins from other addresses nor prevents new
// ones.
func TestLoginsOfOneAddress(t *testing.T) {
	var logged logBuffer
	onNet(t, logTo(&logged), func(t *testing.T, n *testNet) {
		before := n.newPeerFrom("192.0.2.1", "before")
		first, _ := before.register(nil)
		time.Sleep(time.Second) // makes it the oldest
		for i := range maxLogins / maxMachineLogins {
			p := n.newPeerFrom("198.51.100.7", fmt.Sprint("flood", i))
			for range maxMachineLogins {
				p.node = newNodeKey()
				if _, refused := p.register(nil); refused != "" {
					t.Fatalf("flood: %s", refused)
				}
			}
			p.leave()
			if i == 0 {
				time.Sleep(time.Second) // makes the first ones the oldest
			}
		}
		after := n.newPeerFrom("192.0.2.2", "after")
		if resp, refused := after.register(nil); refused != "" || resp.AuthURL == "" {
			t.Fatalf("a new login got %+v %s", resp, refused)
		}
		hosts := make(map[string]int)
		logins, err := n.server.listLogins(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stays := false
		for _, l := range logins.Items {
			hosts[l.Hostname]++
			stays = stays || strings.HasSuffix(first.AuthURL, l.ID)
		}
		if !stays {
			t.Errorf("the login %s, which was the oldest, was ended", first.AuthURL)
		}
		if len(logins.Items) != maxLogins || hosts["before"] != 1 || hosts["after"] != 1 || hosts["flood0"] != 2 {
			t.Errorf("%d logins, before %d, after %d, the flood's oldest %d: want %d, 1, 1, 2",
				len(logins.Items), hosts["before"], hosts["after"], hosts["flood0"], maxLogins)
		}
		if !strings.Contains(logged.String(), "limit=logins") {
			t.Error("nothing is logged")
		}
	})
}

// The source address of a login survives a restart of the server.
func TestLoginSourceIsKept(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		n.newPeerFrom("2001:db8::5", "x").register(nil)
		n.restart()
		n.server.core.change(t.Context(), func(t *tx) error {
			for _, l := range t.logins {
				if l.Source.String() != "2001:db8::/64" {
					n.t.Errorf("source %s", l.Source)
				}
			}
			return nil
		})
	})
}

// The log has a few lines about refused registrations for each address, and one with the number of
// suppressed lines.
func TestRefusedRegistrationsInLog(t *testing.T) {
	var logged logBuffer
	onNet(t, logTo(&logged), func(t *testing.T, n *testNet) {
		flood, honest := n.newPeerFrom("198.51.100.7", "flood"), n.newPeerFrom("192.0.2.1", "honest")
		for range 500 {
			flood.idle()
		}
		honest.idle()
		lines := func(part string) (found []string) {
			for line := range strings.Lines(logged.String()) {
				if strings.Contains(line, part) {
					found = append(found, line)
				}
			}
			return found
		}
		got := lines(`msg="registration refused"`)
		if len(got) != logRate.Each+1 || !strings.Contains(got[len(got)-1], "192.0.2.1") {
			t.Errorf("%d lines, want %d about the flood and one about the other address:\n%s",
				len(got), logRate.Each, strings.Join(got, ""))
		}
		time.Sleep(2*logRate.Span + clockCheck)
		synctest.Wait()
		want := fmt.Sprintf(`msg="log lines suppressed" line="registration refused" count=%d`, 500-logRate.Each)
		if got := lines("suppressed"); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("got %q, want one line with %q", got, want)
		}
	})
}
