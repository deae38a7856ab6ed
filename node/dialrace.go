package node

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// raceDelay is the Connection Attempt Delay: the head start of one address of a name over the next
// (RFC 8305, section 8).
const raceDelay = 250 * time.Millisecond

// race dials the addresses of a name, each raceDelay after the one before, or as soon as that one
// has failed. The first connection wins. If there is none, race returns the first error.
func (d *dialer) race(ctx context.Context, network string, addrs []netip.Addr, port uint16) (net.Conn, error) {
	if len(addrs) == 1 {
		return d.dialAddr(ctx, network, netip.AddrPortFrom(addrs[0].Unmap(), port))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &dialRace{d: d, network: network, results: make(chan dialResult, len(addrs))}
	addrs = interleave(addrs)
	var firstErr error
	running := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for running > 0 || len(addrs) > 0 {
		var startc <-chan time.Time
		if len(addrs) > 0 {
			startc = timer.C
		}
		select {
		case <-startc:
			r.start(ctx, netip.AddrPortFrom(addrs[0].Unmap(), port))
			addrs, running = addrs[1:], running+1
			timer.Reset(raceDelay)
		case res := <-r.results:
			running--
			if res.err == nil {
				cancel()
				losers := running
				if !d.life.spawn(func() { r.closeLosers(losers) }) {
					r.closeLosers(losers)
				}
				return res.c, nil
			}
			if firstErr == nil {
				firstErr = res.err
			}
			timer.Reset(0)
		}
	}
	return nil, firstErr
}

// dialRace is one call of race.
type dialRace struct {
	d       *dialer
	network string
	results chan dialResult // has room for the results of all attempts
}

type dialResult struct {
	c   net.Conn
	err error
}

func (r *dialRace) start(ctx context.Context, ap netip.AddrPort) {
	if !r.d.life.spawn(func() { r.dial(ctx, ap) }) {
		r.results <- dialResult{err: net.ErrClosed}
	}
}

func (r *dialRace) dial(ctx context.Context, ap netip.AddrPort) {
	c, err := r.d.dialAddr(ctx, r.network, ap)
	r.results <- dialResult{c, err}
}

// closeLosers waits for the n attempts that were running when another had won, and closes their
// connections.
func (r *dialRace) closeLosers(n int) {
	for range n {
		if res := <-r.results; res.c != nil {
			res.c.Close()
		}
	}
}

// interleave alternates between the address families, beginning with the family of the first
// address (RFC 8305, section 4).
func interleave(addrs []netip.Addr) []netip.Addr {
	var a, b []netip.Addr
	for _, addr := range addrs {
		if addr.Unmap().Is4() == addrs[0].Unmap().Is4() {
			a = append(a, addr)
		} else {
			b = append(b, addr)
		}
	}
	out := make([]netip.Addr, 0, len(addrs))
	for len(a) > 0 || len(b) > 0 {
		if len(a) > 0 {
			out, a = append(out, a[0]), a[1:]
		}
		if len(b) > 0 {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return out
}
