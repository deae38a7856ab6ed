package server

import (
	"testing"
	"time"
)

// A node whose key has expired is told of itself and of nothing else, on the stream it has and on a
// new one, and may not change what others see of it; once it has time again, it is told of
// everybody.
func TestExpiredNode(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		laptop, watcher := n.join("laptop", k), n.join("watcher", k)
		id := n.node("laptop").ID
		expire := func(at time.Time) {
			t.Helper()
			if _, err := n.server.expireNode(t.Context(), id, &at); err != nil {
				t.Fatal(err)
			}
			settle()
		}
		alone := func(when string, name string, expired bool) {
			t.Helper()
			m, _ := laptop.latestMap()
			if m.Self == nil || m.Self.Expired != expired || m.Self.Name != name+".net.test." || laptop.err != nil {
				t.Errorf("%s: it sees itself as %+v, %v", when, m.Self, laptop.err)
			}
			if alone := len(m.Peers) == 0 && len(m.Filter) == 0; alone != expired {
				t.Errorf("%s: it is told of %d peers and %d rules", when, len(m.Peers), len(m.Filter))
			}
		}
		alone("before", "laptop", false)
		expire(time.Now())
		alone("at once", "laptop", true)
		n.join("newcomer", k)
		alone("after somebody has come", "laptop", true)
		laptop.host.Hostname, laptop.host.RoutableIPs = "database", prefixes("10.1.0.0/16")
		laptop.update(nil)
		laptop.away()
		laptop.err = nil // that it was cancelled
		laptop.stream()
		settle()
		alone("on a new stream", "laptop", true)
		if a := n.node("laptop"); a.Hostname != "laptop" || len(a.Routes.Advertised) != 0 || watcher.sees("laptop") == nil {
			t.Errorf("it has become %+v", a)
		}
		expire(time.Now().Add(time.Hour))
		alone("with time again", "laptop", false)
		if laptop.sees("newcomer") == nil || laptop.sees("watcher") == nil {
			t.Error("it is not told of everybody again")
		}
		watcher.leave()
		time.Sleep(defaultOfflineGrace + time.Second)
		if online(laptop.sees("watcher")) {
			t.Error("changes do not reach it after that")
		}
		time.Sleep(time.Hour)
		settle()
		alone("when its time is over", "laptop", true)
	})
}
