//go:build lab

package lab

import (
	"testing"
	"time"

	"ginnel/node"
)

// If the direct path loses most packets, as behind a UDP policer, bulk data move to the relay. They
// return to the direct path once that is good again.
func TestRelayInsteadOfLossyPath(t *testing.T) {
	t.Parallel()
	m := newMesh(t, open, open)
	b := m.alpha.bulk(meshRate)
	m.alpha.awaitPath(node.PathDirect, 15*time.Second)
	m.internet.nft(`table inet police { chain police { type filter hook forward priority filter;
		udp length > 300 limit rate over 100 kbytes/second burst 8 kbytes drop; }; }`)
	took := m.alpha.awaitPath(node.PathRelay, time.Minute)
	t.Logf("took the relay after %v", took.Round(time.Second))
	if !m.alpha.status().Peers[0].DirectLossy {
		t.Error("the status does not say that the direct path loses packets")
	}
	for range 50 {
		b.flows("over the relay", dialTimeout)
	}
	m.internet.nft("delete table inet police")
	took = m.alpha.awaitPath(node.PathDirect, 3*time.Minute)
	t.Logf("took the direct path again after %v", took.Round(time.Second))
	for range 50 {
		b.flows("directly", dialTimeout)
	}
	b.finish()
}
