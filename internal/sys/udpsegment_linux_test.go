//go:build linux && !ginnel_stdnet

package sys

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// The limit of a destination falls, is its own, and is forgotten after some time. There is a bound
// for how many are kept.
func TestGSOLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		g := gsoLimits{supported: true}
		g.lower(a, 1400, time.Now())
		g.lower(a, 1450, time.Now())
		if got := g.of(a); got != 1400 || g.of(b) != maxUDPPayload {
			t.Errorf("limits %d and %d, want 1400 and %d", got, g.of(b), maxUDPPayload)
		}
		time.Sleep(gsoNarrowFor)
		if got := g.of(a); got != maxUDPPayload {
			t.Errorf("after %v the limit is %d, want %d", gsoNarrowFor, got, maxUDPPayload)
		}
		for i := range 2 * gsoNarrowMax {
			g.lower(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 0, time.Now())
		}
		if n := len(*g.narrow.Load()); n > gsoNarrowMax {
			t.Errorf("%d destinations are kept, want %d at most", n, gsoNarrowMax)
		}
		if g := (gsoLimits{}); g.of(a) != 0 {
			t.Error("a kernel without UDP_SEGMENT has a limit")
		}
	})
}
