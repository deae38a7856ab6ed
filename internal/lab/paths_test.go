//go:build lab

package lab

import (
	"fmt"
	"testing"
	"time"

	"ginnel/node"
)

// Two nodes reach each other over the relay at once, and directly within seconds if their NATs
// allow that. If they do not, as two hard NATs or a hard one and one that filters, the nodes stay
// on the relay.
func TestPathsThroughRouters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b access
		want node.PathKind
	}{
		{open, open, node.PathDirect},
		{easy, open, node.PathDirect},
		{easy, easy, node.PathDirect},
		{hard, open, node.PathDirect},
		{hard, easy, node.PathRelay},
		{hard, hard, node.PathRelay},
	} {
		t.Run(fmt.Sprintf("%s and %s", c.a, c.b), func(t *testing.T) {
			t.Parallel()
			m := newMesh(t, c.a, c.b)
			start := time.Now()
			ab := m.alpha.bulk(meshRate)
			t.Logf("first bytes %v after the first connection", time.Since(start).Round(time.Millisecond))
			ba := m.beta.bulk(meshRate)
			if c.want == node.PathDirect {
				a := m.alpha.awaitPath(node.PathDirect, 15*time.Second)
				b := a + m.beta.awaitPath(node.PathDirect, 15*time.Second)
				t.Logf("direct path from alpha %v after that, from beta %v", a.Round(time.Millisecond), b.Round(time.Millisecond))
			} else {
				time.Sleep(10 * time.Second) // two rounds of discovery
			}
			for range 50 {
				ab.flows("from alpha", dialTimeout)
				ba.flows("from beta", dialTimeout)
			}
			for _, n := range []*meshNode{m.alpha, m.beta} {
				if got := n.path(); got != c.want {
					t.Errorf("the path of %s is %q, want %q", n.order.Name, got, c.want)
				}
			}
			t.Logf("longest silences %v and %v", ab.longestSilence(), ba.longestSilence())
			ab.finish()
			ba.finish()
		})
	}
}
