package server

import (
	"sync/atomic"
	"testing"
	"time"
)

// clock is a wall clock that can be set.
type clock struct{ ahead atomic.Int64 }

func (c *clock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

func (c *clock) use(cfg *Config) {
	cfg.Now = func() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }
}

const day = 24 * time.Hour

// names lists the nodes, with a plus before those that are online.
func (n *testNet) names() (text string) {
	for _, node := range n.nodes() {
		if node.Online {
			text += "+"
		}
		text += node.Name + " "
	}
	return text
}

// Setting the wall clock, by a day forward or back, does not affect durations: neither how long a
// node has been absent nor how long a login waits.
func TestClockSet(t *testing.T) {
	for what, step := range map[string]time.Duration{"forward": day, "back": -day} {
		t.Run(what, func(t *testing.T) {
			c := new(clock)
			onNet(t, c.use, func(t *testing.T, n *testNet) {
				brief := n.authKey(func(r *AuthKeyRequest) { r.Ephemeral = true })
				n.join("a", n.authKey(nil))
				n.join("job", brief)
				left := n.join("left", brief)
				p := n.newPeer("laptop")
				resp, _ := p.register(nil)
				defer p.awaitLogin(resp.AuthURL)()
				left.endStream()
				c.set(step)
				time.Sleep(5 * time.Second)
				n.server.CreateUser(t.Context(), "something happens", "")
				if got := n.names(); got != "+a +job +left " {
					t.Errorf("at once: %s", got)
				}
				time.Sleep(8 * time.Second)
				if got := n.names(); got != "+a +job left " {
					t.Errorf("after the grace: %s", got)
				}
				time.Sleep(50 * time.Second)
				if got := n.names(); got != "+a +job " {
					t.Errorf("after a minute: %s", got)
				}
				soon := n.join("soon", brief)
				c.set(0)
				soon.endStream()
				time.Sleep(62 * time.Second)
				if got := n.names(); got != "+a +job " {
					t.Errorf("corrected: %s", got)
				}
				time.Sleep(loginLife - 3*time.Minute)
				if l, ok := n.onlyLogin(); !ok || !l.Waiting || time.Until(l.Until) > 3*time.Minute {
					t.Errorf("login: %v, %+v", ok, l)
				}
				time.Sleep(3 * time.Minute)
				if l, ok := n.onlyLogin(); ok && l.ID == resp.AuthURL[len(testURL+loginPath):] {
					t.Error("the login exists after its deadline")
				}
			})
		})
	}
}

// Keys expire by the wall clock. A key that expired while the clock was wrong is valid again when
// the clock is corrected.
func TestClockSetAndExpiry(t *testing.T) {
	c := new(clock)
	adjust := func(cfg *Config) {
		c.use(cfg)
		cfg.NodeExpiry = 12 * time.Hour
	}
	onNet(t, adjust, func(t *testing.T, n *testNet) {
		a := n.join("a", n.authKey(nil))
		c.set(day)
		time.Sleep(clockCheck + time.Second)
		settle()
		if !n.node("a").Expired || !a.self().Expired {
			t.Error("the key is valid one day later")
		}
		c.set(0)
		time.Sleep(clockCheck + time.Second)
		settle()
		resp, refused := a.register(nil)
		if n.node("a").Expired || a.self().Expired || refused != "" || !resp.MachineAuthorized {
			t.Errorf("the key is not valid again: %+v %s", resp, refused)
		}
		time.Sleep(12 * time.Hour)
		settle()
		if !n.node("a").Expired {
			t.Error("the key does not expire at its time")
		}
	})
}
