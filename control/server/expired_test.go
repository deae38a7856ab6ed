package server

import (
	"testing"
	"time"
)

// A node whose key has expired receives only its own node, on its current stream and on a new one,
// and cannot change what others see of it. When the key is valid again, the node receives all
// peers.
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
				t.Errorf("%s: its own node is %+v, stream error %v", when, m.Self, laptop.err)
			}
			if alone := len(m.Peers) == 0 && len(m.Filter) == 0; alone != expired {
				t.Errorf("%s: it has %d peers and %d rules, want none", when, len(m.Peers), len(m.Filter))
			}
		}
		alone("before", "laptop", false)
		expire(time.Now())
		alone("at once", "laptop", true)
		n.join("newcomer", k)
		alone("after somebody has come", "laptop", true)
		laptop.host.Hostname, laptop.host.RoutableIPs = "database", prefixes("10.1.0.0/16")
		laptop.update(nil)
		laptop.endStream()
		laptop.err = nil // the stream was cancelled
		laptop.stream()
		settle()
		alone("on a new stream", "laptop", true)
		if a := n.node("laptop"); a.Hostname != "laptop" || len(a.Routes.Advertised) != 0 || watcher.sees("laptop") == nil {
			t.Errorf("it was changed to %+v", a)
		}
		expire(time.Now().Add(time.Hour))
		alone("with time again", "laptop", false)
		if laptop.sees("newcomer") == nil || laptop.sees("watcher") == nil {
			t.Error("it has not all peers again")
		}
		watcher.leave()
		time.Sleep(defaultOfflineGrace + time.Second)
		if online(laptop.sees("watcher")) {
			t.Error("later changes do not reach it")
		}
		time.Sleep(time.Hour)
		settle()
		alone("when its time is over", "laptop", true)
	})
}
