package transport

import (
	"net/netip"
	"testing"
	"time"

	"ginnel/internal/disco"
)

// Whatever happens in whatever order, the machine keeps its promises.
func FuzzPath(f *testing.F) {
	f.Add([]byte("send, tick and pong in some order"))
	f.Fuzz(func(t *testing.T, script []byte) {
		pt := newPathTest(t, public)
		pt.p.txid = func() disco.TxID { pt.ids++; return disco.TxID{byte(pt.ids), byte(pt.ids >> 8), byte(pt.ids >> 16)} }
		addrs := []netip.AddrPort{public, private, other, netip.MustParseAddrPort("[2001:db8::1]:1")}
		var pings []outPing
		script = script[:min(len(script), 400)]
		for len(script) >= 2 {
			op, arg := script[0], script[1]
			script = script[2:]
			addr := addrs[int(arg)%len(addrs)]
			var e effects
			switch op % 9 {
			case 0:
				e = pt.p.sent(pt.now)
			case 1:
				e = pt.p.calledMaybe(pt.now, addrs[:int(arg)%len(addrs)])
			case 2:
				pt.p.pinged(pt.now, addr, disco.TxID{arg})
			case 3:
				if len(pings) > 0 {
					pt.p.ponged(pt.now, pings[int(arg)%len(pings)].txid)
				}
			case 4:
				pt.p.sendFailed(addr)
			case 5:
				e = pt.p.reset(pt.now)
			case 6:
				pt.p.setEndpoints(pt.now, addrs[int(arg)%len(addrs):])
			case 7:
				e = pt.p.probe(pt.now)
			case 8:
				pt.after(time.Duration(arg) * 100 * time.Millisecond)
			}
			pings = append(pings, e.pings...)
			pings = append(pings, pt.out.pings...)
			pt.out = effects{}
			pt.check()
		}
	})
}

func (pt *pathTest) check() {
	pt.t.Helper()
	direct, relay := pt.p.route(pt.now)
	if !direct.IsValid() && !relay {
		pt.t.Fatal("a route that leads nowhere")
	}
	if _, ok := pt.p.candidates[direct]; direct.IsValid() && !ok {
		pt.t.Fatalf("the path in use, %v, is no candidate", direct)
	}
	if next := pt.p.next(pt.now); !next.IsZero() && next.Sub(pt.now) > sessionTimeout {
		pt.t.Fatalf("the machine wants to sleep for %v", next.Sub(pt.now))
	}
}
