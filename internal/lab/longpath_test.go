//go:build lab

package lab

import (
	"fmt"
	"net"
	"testing"
	"time"

	"ginnel/internal/netem"
)

// On a long path the full TCP windows of 64 transfers would need 1 GB. A node with little memory
// divides its budget between them: it stays within the budget, every transfer makes progress, and
// no byte is lost, with and without packet loss.
func TestMemoryIsKeptOnLongPath(t *testing.T) {
	const (
		given     = 32 // MiB, the value of --memory
		slack     = 4  // MiB by which it may exceed that for a moment
		transfers = 64
		flood     = 120 << 10 // bytes a second of each transfer, each way: more than its share of the path
	)
	for _, loss := range []float64{0, 0.001} {
		t.Run(fmt.Sprintf("loss %v", loss), func(t *testing.T) {
			path := netem.Config{Delay: 75 * time.Millisecond, Rate: 200e6, Queue: 2 << 20, Loss: loss}
			s := newSiteOverPath(t, path)
			g := s.up(wgFile{}, "--memory", fmt.Sprintf("%dMiB", given))
			var all []*bulk
			for range transfers {
				c, err := s.client.viaSOCKS(defaultProxy, net.JoinHostPort(innerAddr4, bulkPort))
				if err != nil {
					t.Fatalf("connection %d: %v", len(all)+1, err)
				}
				all = append(all, startBulk(t, c, flood))
			}
			awaitAll(t, all, 256<<10, 3*dialTimeout)
			peak := g.memoryMB("VmHWM")
			t.Logf("peak of %d MiB resident", peak)
			if peak > given+slack {
				t.Errorf("%d MiB were resident, want about %d", peak, given)
			}
			for _, b := range all {
				close(b.stopc)
			}
			for i, b := range all {
				if err := <-b.done; err != nil {
					t.Errorf("transfer %d: %v", i, err)
				}
			}
			g.end()
		})
	}
}

// awaitAll waits until each transfer has moved n bytes in each direction.
func awaitAll(t *testing.T, all []*bulk, n int64, limit time.Duration) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for i, b := range all {
		for b.up.Load() < n || b.down.Load() < n {
			if time.Now().After(deadline) {
				t.Fatalf("transfer %d has moved %d bytes up and %d down in %v, want %d", i, b.up.Load(), b.down.Load(), limit, n)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}
