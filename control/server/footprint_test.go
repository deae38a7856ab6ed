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

// footprint maps kinds of objects to how many of them a server has.
type footprint map[string]int

// footprint counts everything that nodes could leave behind.
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
			"streams": len(c.streams), "node timers": len(c.timers.nodes.items), "node timer queue": len(c.timers.nodes.queue),
			"login timers": len(c.timers.logins.items), "login waits": len(c.loginWaits), "primaries": len(c.pending.primaries),
			"shown nodes": len(c.latest.Load().nodes),
		})
		return nil
	})
	open, unregistered := n.server.noiseConns.counts()
	f["connections"], f["unregistered connections"] = open, unregistered
	f["machines with connections"] = len(n.server.noiseConns.byMachine)
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

// heapUsed returns the bytes of reachable heap objects.
func heapUsed() int {
	runtime.GC()
	runtime.GC() // frees what finalizers released
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// The default exceeds the number of addresses in the test's range.
var shortLivedPeers = flag.Int("passing", 200, "nodes that come and go in TestShortLivedNodes")

// Short-lived nodes leave nothing behind, whether they log out, end their stream, lose their
// connection or disappear after registering.
func TestShortLivedNodes(t *testing.T) {
	adjust := func(c *Config) {
		c.V4, c.V6 = netip.MustParsePrefix("10.1.0.0/26"), netip.MustParsePrefix("fd00::/64")
		c.EphemeralTimeout = 5 * time.Second
	}
	onNet(t, adjust, func(t *testing.T, n *testNet) {
		k := n.authKey(func(r *AuthKeyRequest) { r.Ephemeral = true })
		n.join("stays", n.authKey(nil))
		n.runShortLived(k, 0)
		time.Sleep(10 * time.Second)
		before, used := n.footprint(), heapUsed()
		for i := range *shortLivedPeers {
			n.runShortLived(k, i)
		}
		time.Sleep(5 * time.Minute) // longer than the timers of closed connections
		synctest.Wait()
		after := n.footprint()
		for what, number := range after {
			slack := 0
			if what == "goroutines" {
				slack = 5 // of the runtime and of other tests
			}
			if number > before[what]+slack || number < before[what]-slack {
				t.Errorf("%s: %d, before the test %d", what, number, before[what])
			}
		}
		grown := heapUsed() - used
		t.Logf("the heap has grown by %d KiB from %d KiB", grown>>10, used>>10)
		if grown > 4<<20 {
			t.Errorf("the heap has grown by %d bytes", grown)
		}
		if n.join("job", k).self().Name != "job.net.test." {
			t.Error("the name is still taken")
		}
		if got := counter(t, n, "ginnel_control_registrations_total"); got < *shortLivedPeers {
			t.Errorf("the metric counted %d registrations", got)
		}
	})
}

// runShortLived lets a node join and leave in one of several ways.
func (n *testNet) runShortLived(authKey string, i int) {
	n.t.Helper()
	p := n.newShortLived("job")
	if _, refused := p.register(withKey(authKey)); refused != "" {
		n.t.Fatalf("%d: %s", i, refused)
	}
	time.Sleep(100 * time.Millisecond)
	if i%5 == 4 {
		p.Close() // it registers and is never seen again
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
		p.Close() // closes the connection during the stream
		p.leave()
	}
}

// newShortLived is newPeer for a node that leaves before the test ends.
func (n *testNet) newShortLived(hostname string) *peer {
	p := n.preparePeer(hostname)
	p.dial()
	return p
}

// counter returns the sum of a metric over all its labels.
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
