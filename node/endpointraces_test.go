package node

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"ginnel/key"
)

// A dead address of an endpoint's name costs raceDelay, not deadLimit, which applies to an address
// that has worked. So do two dead addresses, and one of a family in which the host cannot send.
func TestDeadAddressOfAnEndpoint(t *testing.T) {
	for _, addrs := range [][]string{
		{"127.0.0.3", "127.0.0.1"},
		{"::1", "127.0.0.1"}, // the node's socket is of IPv4
		{"127.0.0.3", "127.0.0.4", "127.0.0.1"},
	} {
		k := key.NewNodePrivate()
		p := newStockPeer(t, &addressBind{ip: "127.0.0.1"}, k.Public())
		p.echoTCP(t)
		n := plainNode(t, k, p, Endpoint{"peer.example", p.port}, func(c *Config) {
			c.LookupHost = func(context.Context, string) (out []netip.Addr, err error) {
				for _, a := range addrs {
					out = append(out, netip.MustParseAddr(a))
				}
				return out, nil
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		start := time.Now()
		c, err := n.DialContext(ctx, "tcp", "10.9.0.1:7")
		cancel()
		if err != nil {
			t.Errorf("%v: %v after %v", addrs, err, time.Since(start))
			continue
		}
		if err := roundTrip(t, c, "hello", time.Second); err != nil {
			t.Errorf("%v: %v", addrs, err)
		}
		c.Close()
		head := time.Duration(len(addrs)-1) * raceDelay
		if took := time.Since(start); took < head/2 || took > head+time.Second {
			t.Errorf("%v: took %v, want about %v", addrs, took, head)
		}
		time.Sleep(2 * raceDelay) // the race is over
		if err := dialAgain(n); err != nil {
			t.Errorf("%v: %v", addrs, err)
		}
	}
}

// dialAgain makes another connection, at once.
func dialAgain(n *Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	c, err := n.DialContext(ctx, "tcp", "10.9.0.1:7")
	if err == nil {
		c.Close()
	}
	return err
}
