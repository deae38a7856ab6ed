package server

import (
	"bytes"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"ginnel/key"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/rawpeer"
)

// A client that takes no bytes is disconnected after the write timeout, a mesh peer much later
// (4.3).
func TestServerWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{MeshKey: testMeshKey})
		r.Net.Limit = 10_000
		stuck, stuckMesh := r.Client(), r.MeshClient()
		r.Net.Limit = 256 << 10
		a := r.Client()
		for range 20 {
			a.Send(stuck.Public(), strings.Repeat("x", 1000))
			a.Send(stuckMesh.Public(), strings.Repeat("x", 1000))
		}
		start := time.Now()
		// The connection is cut although nobody reads from it: the sender learns by PeerGone only if it
		// got something.
		for r.countConns() == 3 {
			time.Sleep(10 * time.Millisecond)
		}
		if d := time.Since(start).Round(100 * time.Millisecond); d != 2*time.Second {
			t.Errorf("client cut after %v", d)
		}
		for r.countConns() == 2 {
			time.Sleep(10 * time.Millisecond)
		}
		if d := time.Since(start).Round(100 * time.Millisecond); d != 30*time.Second {
			t.Errorf("mesh peer cut after %v", d)
		}
		r.wantMetric(t, "ginnel_relay_write_timeouts_total", 2)
	})
}

// Three senders to one slow reader get equal shares. A fourth one that sends little gets everything
// through.
func TestServerFairness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		r.Net.Limit = 32 << 10
		slow := r.Client()
		stopc := make(chan struct{})
		var sending sync.WaitGroup
		var senders []*rawpeer.Peer
		for i := range 3 {
			p := r.Client()
			senders = append(senders, p)
			sending.Go(func() {
				packet := bytes.Repeat([]byte{byte(i)}, 700*(i+1))
				for { // 1.4 to 4.2 MB/s each, for a reader of 1.4 MB/s on average
					time.Sleep(500 * time.Microsecond)
					if _, err := p.Conn.Write(derp.AppendSendPacket(nil, slow.Public(), packet)); err != nil {
						return
					}
				}
			})
		}
		modest := r.Client()
		sending.Go(func() {
			for {
				select {
				case <-stopc:
					return
				case <-time.After(20 * time.Millisecond):
					modest.Conn.Write(derp.AppendSendPacket(nil, slow.Public(), []byte{9}))
				}
			}
		})
		got := make(map[key.NodePublic]int)
		for start := time.Now(); time.Since(start) < 2*time.Second; {
			time.Sleep(time.Millisecond)
			typ, p, err := slow.Next()
			if err != nil || typ != derp.FrameRecvPacket {
				t.Fatal(typ, err)
			}
			got[key.NodePublic(p[:key.Size])] += len(p)
		}
		close(stopc)
		base := got[senders[0].Public()]
		for i, p := range senders {
			if share := float64(got[p.Public()]) / float64(base); share < 0.9 || share > 1.1 {
				t.Errorf("sender %d got %.2f of the share of the first", i, share)
			}
		}
		if n := got[modest.Public()] / 33; n < 90 {
			t.Errorf("%d of 100 packets of the modest sender arrived", n)
		}
		for _, p := range senders {
			p.Conn.Close()
		}
		sending.Wait()
	})
}

// A stuck receiver does not hold up what its sender sends to others.
func TestServerStuckReceiverDoesNotHoldUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{WriteTimeout: time.Hour})
		r.Net.Limit = 10_000
		stuck := r.Client()
		r.Net.Limit = 256 << 10
		a, b := r.Client(), r.Client()
		go func() {
			for i := range 2000 {
				a.Send(stuck.Public(), strings.Repeat("s", 1400))
				a.Send(b.Public(), string(rune(i)))
			}
		}()
		start := time.Now()
		for i := range 2000 {
			b.WantPacket(a.Public(), string(rune(i)))
		}
		if d := time.Since(start); d > 2*sendPatience {
			t.Errorf("2000 packets took %v beside a stuck receiver, want one wait of %v", d, sendPatience)
		}
		if rawpeer.Metric(t, r, `ginnel_relay_dropped_packets_total{kind="other",reason="queue_tail"}`) == 0 {
			t.Error("nothing was dropped")
		}
	})
}

// A slow receiver slows its only sender down instead of losing packets.
func TestServerBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		r.Net.Limit = 20_000
		slow, a := r.Client(), r.Client()
		go func() {
			for range 2000 {
				a.Send(slow.Public(), strings.Repeat("s", 1400))
			}
		}()
		for range 2000 {
			time.Sleep(200 * time.Microsecond) // 7 MB/s
			slow.WantPacket(a.Public(), strings.Repeat("s", 1400))
		}
		r.wantMetric(t, `ginnel_relay_dropped_packets_total{kind="other",reason="queue_tail"}`, 0)
	})
}

// A sender with several destinations is not slowed down to the slowest of them: it waits for a
// ninth of its time at most.
func TestServerMixedDestinations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		r.Net.Limit = 20_000
		slow := r.Client()
		r.Net.Limit = 256 << 10
		a, fast := r.Client(), r.Client()
		stopc := make(chan struct{})
		var others sync.WaitGroup
		others.Go(func() {
			for {
				select {
				case <-stopc:
					return
				case <-time.After(1400 * time.Microsecond): // 1 MB/s
					slow.Next()
				}
			}
		})
		const n = 3000
		others.Go(func() {
			for range n {
				a.Conn.Write(derp.AppendSendPacket(nil, slow.Public(), make([]byte, 1400)))
				a.Conn.Write(derp.AppendSendPacket(nil, fast.Public(), []byte("fast")))
			}
		})
		start := time.Now()
		for range n {
			fast.WantPacket(a.Public(), "fast")
		}
		// At the pace of the slow one it would be 4 s.
		if d := time.Since(start); d > 500*time.Millisecond {
			t.Errorf("%d packets beside a slow receiver took %v", n, d)
		}
		close(stopc)
		others.Wait()
	})
}

// Section 4.7: a client is held to its rate by reading more slowly; no packet is lost.
func TestServerClientRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{ClientRate: 100_000, ClientBurst: 1})
		a, b := r.Client(), r.Client()
		start := time.Now()
		go func() {
			for range 500 {
				a.Send(b.Public(), strings.Repeat("x", 1000))
			}
		}()
		for range 500 {
			b.WantPacket(a.Public(), strings.Repeat("x", 1000))
		}
		// The burst is raised to the largest frame, 65568 bytes.
		if d := time.Since(start).Seconds(); d < 4.2 || d > 5.2 {
			t.Errorf("500 kB at 100 kB/s took %v s", d)
		}
		if rawpeer.Metric(t, r, "ginnel_relay_throttled_seconds_total") < 4 {
			t.Error("throttling is not counted")
		}
	})
}

// Rates beyond 32 bits work on all systems, and 0 means no limit.
func TestClientLimiter(t *testing.T) {
	for _, c := range []struct {
		rate, burst int64
		limit       rate.Limit // 0 for none
		most        int
	}{
		{0, 1 << 40, 0, 0},
		{4 << 30, 0, 4 << 30, minRateBurst},
		{1, 1 << 20, 1, 1 << 20},
		{1, math.MaxInt64, 1, math.MaxInt},
	} {
		l := (&Config{ClientRate: c.rate, ClientBurst: c.burst}).newLimiter()
		switch {
		case c.limit == 0 && l != nil, c.limit != 0 && (l == nil || l.Limit() != c.limit || l.Burst() != c.most):
			t.Errorf("%+v: got %+v", c, l)
		}
	}
}

func TestServerMaxClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{MaxClients: 2})
		a, _ := r.Client(), r.Client()
		resp := r.Get("GET", "/derp", http.Header{"Upgrade": {"DERP"}, "Connection": {"Upgrade"}})
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("third client got %s", resp.Status)
		}
		r.wantMetric(t, `ginnel_relay_refused_connections_total{reason="full"}`, 1)
		a.Conn.Close()
		synctest.Wait()
		r.Client().Ping()
	})
}

// At most one Pong is queued for a client that does not read (3.11).
func TestServerPongFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		r.Net.Limit = 2000
		a := r.Client()
		go func() {
			for range 1000 {
				if _, err := a.Conn.Write(derp.AppendPing(nil, derp.PingData{})); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Second)
		r.wantMetric(t, "ginnel_relay_pings_total", 1000)
		if n := rawpeer.Metric(t, r, "ginnel_relay_pongs_total"); n > 200 {
			t.Errorf("%v pongs queued for a client that reads nothing", n)
		}
	})
}
