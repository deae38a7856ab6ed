package server

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/control"
)

// awaitLogin keeps a followup request for a login open until stop is called.
func (p *peer) awaitLogin(url string) (stop func()) {
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

// onlyLogin returns the only login, or false if there is none.
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

// A login lives as long as its client waits, plus loginGrace.
func TestLoginWithoutWaiter(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		p := n.newPeer("laptop")
		want := func(step string, exists, waiting bool) {
			t.Helper()
			if l, ok := n.onlyLogin(); ok != exists || l.Waiting != waiting {
				t.Errorf("%s: exists %v and waiting %v, want %v and %v", step, ok, l.Waiting, exists, waiting)
			}
		}
		resp, _ := p.register(nil)
		begun := time.Now()
		want("asked", true, false)
		stop, other := p.awaitLogin(resp.AuthURL), p.awaitLogin(resp.AuthURL)
		time.Sleep(5 * time.Minute) // an administrator takes a while
		want("waits", true, true)
		other()
		time.Sleep(2 * loginGrace)
		want("one of two has gone", true, true)
		stop()
		want("gone", true, false)
		if l, _ := n.onlyLogin(); time.Until(l.Until) > loginGrace {
			t.Errorf("client gone: the login expires in %v", time.Until(l.Until))
		}
		time.Sleep(loginGrace - time.Second)
		stop = p.awaitLogin(resp.AuthURL)
		time.Sleep(2 * loginGrace)
		want("back in time", true, true)
		if l, _ := n.onlyLogin(); l.Until.Sub(begun).Round(time.Second) != loginLife {
			t.Errorf("client back in time: the login expires %v after its creation", l.Until.Sub(begun))
		}
		stop()
		time.Sleep(loginGrace + time.Second)
		want("gone for good", false, false)
		again, _ := p.register(func(r *control.RegisterRequest) { r.Followup = resp.AuthURL })
		if again.AuthURL == "" || again.AuthURL == resp.AuthURL {
			t.Errorf("client back too late: %+v, want another URL", again)
		}
		time.Sleep(loginGrace / 2)
		if same, _ := p.register(nil); same.AuthURL != again.AuthURL {
			t.Errorf("repeated request: another URL")
		}
		time.Sleep(loginGrace*3/4 + time.Second)
		want("asked twice, and not waited", true, false)
		time.Sleep(loginGrace)
		want("never waited", false, false)
		n.server.core.change(t.Context(), func(*tx) error {
			if kept := n.server.core.loginWaits; len(kept) > 0 {
				t.Errorf("left over from ended logins: %v", kept)
			}
			return nil
		})
	})
}

// After a restart of the server, clients get loginGrace to return. A login also survives a failure
// of the store.
func TestLoginWithoutWaiterAndRestart(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		p := n.newPeer("laptop")
		resp, _ := p.register(nil)
		time.Sleep(loginGrace - time.Second)
		n.restart()
		time.Sleep(loginGrace - time.Second)
		stop := p.awaitLogin(resp.AuthURL)
		time.Sleep(2 * loginGrace)
		if l, ok := n.onlyLogin(); !ok || !l.Waiting {
			t.Errorf("after a restart: exists %v, %+v", ok, l)
		}
		n.restart()
		stop()
		time.Sleep(loginGrace + time.Second)
		synctest.Wait()
		if _, ok := n.onlyLogin(); ok {
			t.Error("the login has not expired")
		}
	})
}
