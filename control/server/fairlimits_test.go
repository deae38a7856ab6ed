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

// logTo has the server write its log, from Info on, to out.
func logTo(out io.Writer) func(*Config) {
	return func(c *Config) { c.Log = slog.New(slog.NewTextHandler(out, nil)) }
}

// idle opens a channel that no node follows from: its registration is refused.
func (p *peer) idle() {
	p.t.Helper()
	if _, refused := p.register(func(r *control.RegisterRequest) { *r = control.RegisterRequest{} }); refused != errNoNodeKey.Error() {
		p.t.Fatalf("refused with %q", refused)
	}
}

// Idle channels of one address, whatever their number, keep no new node of another address out, nor
// do they end the channel of one that waits. Those of one IPv6 network count together.
func TestIdleChannelsOfOneAddress(t *testing.T) {
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
			honest.waits(resp.AuthURL)
			for i := range 2 * limit {
				n.newPeerFrom(host(i), "idle").idle()
			}
			settle()
			if l, ok := n.onlyLogin(); !ok || !l.Waiting {
				t.Errorf("%s: the new node's channel was ended: %+v", flood, l)
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

// An address has the oldest of its own channels ended, so that its latest machine gets in.
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
			t.Errorf("%d connections of unregistered machines, want 1: the first is ended, the third has a node", unregistered)
		}
	})
}

// Connections of one address that do not finish their handshake are ended for that of another, and
// for the next of its own.
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
		t.Errorf("%d of the flood ended, want the first 11; honest ones: %v, %v", ended, honest.Err(), late.Err())
	}
	ncs.endHandshake(last)
	if n := ncs.handshakes.Len(); n != maxHandshakes-1 {
		t.Errorf("%d handshakes, want %d", n, maxHandshakes-1)
	}
}

// A stranger may begin as many logins as it likes: others' stay, and others may begin more.
func TestLoginsOfOneAddress(t *testing.T) {
	var logged logBuffer
	onNet(t, logTo(&logged), func(t *testing.T, n *testNet) {
		before := n.newPeerFrom("192.0.2.1", "before")
		first, _ := before.register(nil)
		time.Sleep(time.Second) // it is the oldest
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
				time.Sleep(time.Second) // the first are the oldest
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
			t.Errorf("the login %s, the oldest, has given way to the flood", first.AuthURL)
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

// A login keeps the address that it came from when the server begins anew.
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

// Refused registrations write a few lines for each address, and one that says how many were left
// out.
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
		if got := lines(`msg="registration refused"`); len(got) != logRate.Each+1 || !strings.Contains(got[len(got)-1], "192.0.2.1") {
			t.Errorf("%d lines, want %d of the flood and one of the other:\n%s", len(got), logRate.Each, strings.Join(got, ""))
		}
		time.Sleep(2*logRate.Span + clockCheck)
		synctest.Wait()
		want := fmt.Sprintf(`msg="log lines suppressed" line="registration refused" count=%d`, 500-logRate.Each)
		if got := lines("suppressed"); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("got %q, want one line with %q", got, want)
		}
	})
}
