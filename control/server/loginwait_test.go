package server

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/control"
)

// waits asks what has become of a login until stop is called.
func (p *peer) waits(url string) (stop func()) {
	ctx, cancel := context.WithCancel(p.t.Context())
	req := p.request()
	req.Followup = url
	p.wg.Go(func() { p.Register(ctx, req) })
	settle()
	return func() {
		cancel()
		settle()
	}
}

// onlyLogin returns the one login there is; false if there is none.
func (n *testNet) onlyLogin() (Login, bool) {
	n.t.Helper()
	p, err := n.server.listLogins(n.t.Context())
	if err != nil || len(p.Items) > 1 {
		n.t.Fatalf("logins %+v, %v", p.Items, err)
	}
	if len(p.Items) == 0 {
		return Login{}, false
	}
	return p.Items[0], true
}

// A login waits as long as its client does, and a little longer.
func TestLoginLeft(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		p := n.newPeer("laptop")
		want := func(step string, there, waiting bool) {
			t.Helper()
			if l, ok := n.onlyLogin(); ok != there || l.Waiting != waiting {
				t.Errorf("%s: there %v and waiting %v, want %v and %v", step, ok, l.Waiting, there, waiting)
			}
		}
		resp, _ := p.register(nil)
		begun := time.Now()
		want("asked", true, false)
		stop, other := p.waits(resp.AuthURL), p.waits(resp.AuthURL)
		time.Sleep(5 * time.Minute) // somebody opens the address in a browser, and thinks about it
		want("waits", true, true)
		other()
		time.Sleep(2 * loginGrace)
		want("one of two has gone", true, true)
		stop()
		want("gone", true, false)
		if l, _ := n.onlyLogin(); time.Until(l.Until) > loginGrace {
			t.Errorf("gone: forgotten in %v", time.Until(l.Until))
		}
		time.Sleep(loginGrace - time.Second)
		stop = p.waits(resp.AuthURL)
		time.Sleep(2 * loginGrace)
		want("back in time", true, true)
		if l, _ := n.onlyLogin(); l.Until.Sub(begun).Round(time.Second) != loginLife {
			t.Errorf("back in time: until %v after it was asked for", l.Until.Sub(begun))
		}
		stop()
		time.Sleep(loginGrace + time.Second)
		want("gone for good", false, false)
		again, _ := p.register(func(r *control.RegisterRequest) { r.Followup = resp.AuthURL })
		if again.AuthURL == "" || again.AuthURL == resp.AuthURL {
			t.Errorf("back too late: %+v, want another address", again)
		}
		time.Sleep(loginGrace / 2)
		if same, _ := p.register(nil); same.AuthURL != again.AuthURL {
			t.Errorf("asked again: another address")
		}
		time.Sleep(loginGrace*3/4 + time.Second)
		want("asked twice, and not waited", true, false)
		time.Sleep(loginGrace)
		want("never waited", false, false)
		n.server.core.change(t.Context(), func(*tx) error {
			if kept := n.server.core.loginWaits; len(kept) > 0 {
				t.Errorf("kept of logins that are gone: %v", kept)
			}
			return nil
		})
	})
}

// A restart of the server gives clients time to come back; those that waited still wait when the
// store has failed.
func TestLoginLeftAndRestart(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		p := n.newPeer("laptop")
		resp, _ := p.register(nil)
		time.Sleep(loginGrace - time.Second)
		n.restart()
		time.Sleep(loginGrace - time.Second)
		stop := p.waits(resp.AuthURL)
		time.Sleep(2 * loginGrace)
		if l, ok := n.onlyLogin(); !ok || !l.Waiting {
			t.Errorf("after a restart: there %v, %+v", ok, l)
		}
		n.restart()
		stop()
		time.Sleep(loginGrace + time.Second)
		synctest.Wait()
		if _, ok := n.onlyLogin(); ok {
			t.Error("still there")
		}
	})
}
