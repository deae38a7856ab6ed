//go:build lab

package lab

import (
	"net"
	"testing"
)

// A node stays within its memory budget with one transfer and with many at full speed. Each
// transfer makes progress, and no byte is lost.
func TestMemoryIsKept(t *testing.T) {
	const (
		given = 32       // MiB, the value of --memory
		slack = 4        // MiB by which it may exceed that for a moment
		flood = 64 << 20 // bytes a second of each transfer, each way: more than the node can move
	)
	for _, transfers := range []int{1, 64} {
		s := newSite(t)
		g := s.up(wgFile{}, "--memory", "32MiB")
		var all []*bulk
		for range transfers {
			c, err := s.client.viaSOCKS(defaultProxy, net.JoinHostPort(innerAddr4, bulkPort))
			if err != nil {
				t.Fatalf("connection %d: %v", len(all)+1, err)
			}
			all = append(all, startBulk(t, c, flood))
		}
		for range 3 {
			for _, b := range all {
				b.flows("with little memory", dialTimeout)
			}
		}
		moved := 0.0
		for _, b := range all {
			moved += float64(b.up.Load()+b.down.Load()) / 1e6
		}
		peak := g.memoryMB("VmHWM")
		t.Logf("%d transfers, %.0f MB so far: peak of %d MiB resident", transfers, moved, peak)
		if peak > given+slack {
			t.Errorf("%d transfers: %d MiB were resident, want about %d", transfers, peak, given)
		}
		for _, b := range all {
			close(b.stopc)
		}
		for _, b := range all {
			if err := <-b.done; err != nil {
				t.Errorf("%d transfers: %v", transfers, err)
			}
		}
		g.end()
	}
}
