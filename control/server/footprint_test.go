package server

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ginnel/control"
)

// footprint is how much of everything a server has.
type footprint map[string]int

// footprint counts what nodes could leave behind.
func (n *testNet) footprint() footprint {
	n.t.Helper()
	settle()
	f := footprint{"goroutines": runtime.NumGoroutine()}
	entries, _, err := n.store.List(n.t.Context(), "")
	if err != nil {
		n.t.Fatal(err)
	}
	f["records"] = len(entries)
	c := n.server.core
	c.change(n.t.Context(), func(t *tx) error {
		maps.Copy(f, footprint{
			"nodes": len(t.nodes), "node keys": len(t.byKey), "machines": len(t.byMachine), "labels": len(t.byLabel),
			"addresses": len(t.byAddr), "hashes": len(t.byHash), "logins": len(t.logins), "revisions": len(t.revisions),
			"streams": len(c.streams), "alarms": len(c.timers.nodes.items), "alarm queue": len(c.timers.nodes.queue),
			"deadlines": len(c.timers.logins.items), "attended": len(c.loginWaits), "primaries": len(c.pending.primaries),
			"shown nodes": len(c.latest.Load().nodes),
		})
		return nil
	})
	open, unregistered := n.server.noiseConns.counts()
	f["channels"], f["strange channels"], f["machines with channels"] = open, unregistered, len(n.server.noiseConns.byMachine)
	families, err := c.metrics.registry.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			if m.Gauge != nil {
				f[fmt.Sprint(family.GetName(), m.Label)] = int(m.Gauge.GetValue())
			}
		}
	}
	return f
}

// heapUsed is what is in use.
func heapUsed() int {
	runtime.GC()
	runtime.GC() // what finalizers have let go of
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// passingPeers is more than there are addresses.
var passingPeers = flag.Int("passing", 200, "nodes that come and go in TestPassingNodes")

// Nodes of jobs come and go in great numbers. Whether they log out, end their stream, lose their
// connection or are never heard of again after they have registered: of none is anything left.
func TestPassingNodes(t *testing.T) {
	adjust := func(c *Config) {
		c.V4, c.V6 = netip.MustParsePrefix("10.1.0.0/26"), netip.MustParsePrefix("fd00::/64")
		c.EphemeralTimeout = 5 * time.Second
	}
	onNet(t, adjust, func(t *testing.T, n *testNet) {
		k := n.authKey(func(r *AuthKeyRequest) { r.Ephemeral = true })
		n.join("stays", n.authKey(nil))
		n.pass(k, 0)
		time.Sleep(10 * time.Second)
		before, used := n.footprint(), heapUsed()
		for i := range *passingPeers {
			n.pass(k, i)
		}
		time.Sleep(5 * time.Minute) // until the timers of closed connections, too, would have fired
		synctest.Wait()
		after := n.footprint()
		for what, number := range after {
			slack := 0
			if what == "goroutines" {
				slack = 5 // which are those of the whole process
			}
			if number > before[what]+slack || number < before[what]-slack {
				t.Errorf("%s: %d, and %d before", what, number, before[what])
			}
		}
		grown := heapUsed() - used
		t.Logf("the heap has grown by %d KiB from %d KiB", grown>>10, used>>10)
		if grown > 4<<20 {
			t.Errorf("the heap has grown by %d bytes", grown)
		}
		if n.join("job", k).self().Name != "job.net.test." {
			t.Error("the name is not free again")
		}
		if got := counter(t, n, "ginnel_control_registrations_total"); got < *passingPeers {
			t.Errorf("%d registrations were counted", got)
		}
	})
}

// pass has a node come, and go in one of several ways.
func (n *testNet) pass(authKey string, i int) {
	n.t.Helper()
	p := n.newPassing("job")
	if _, refused := p.register(withKey(authKey)); refused != "" {
		n.t.Fatalf("%d: %s", i, refused)
	}
	time.Sleep(100 * time.Millisecond)
	if i%5 == 4 {
		p.Close() // and is not heard of again
		return
	}
	p.stream()
	p.update(nil)
	time.Sleep(100 * time.Millisecond)
	switch i % 5 {
	case 0:
		p.register(func(r *control.RegisterRequest) { r.Expiry = time.Now().Add(-time.Hour) })
		p.leave()
	case 1:
		p.Logout(n.t.Context(), p.request())
		p.leave()
	case 2:
		p.leave()
	case 3:
		p.Close() // its connection, with the stream on it
		p.leave()
	}
}

// newPassing is newPeer for one who ends before the test does.
func (n *testNet) newPassing(hostname string) *peer {
	p := n.preparePeer(hostname)
	p.dial()
	return p
}

// counter adds up what a metric counts.
func counter(t *testing.T, n *testNet, name string) (sum int) {
	t.Helper()
	families, err := n.server.Collector().(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			for _, m := range family.Metric {
				sum += int(m.Counter.GetValue())
			}
		}
	}
	return sum
}
