package transport

import (
	"net/netip"
	"slices"
	"time"
)

// The loop's part that finds our own endpoints.

// readLocal reads the addresses of the interfaces; it reports whether they changed.
func (l *loop) readLocal(now time.Time) (changed bool) {
	if l.c.cfg.NoUDP {
		return false
	}
	l.localAt = now
	local := []netip.Addr{l.c.cfg.Addr}
	if !l.c.cfg.Addr.IsValid() || l.c.cfg.Addr.IsUnspecified() {
		addrs, err := l.c.cfg.localAddrs()
		if err != nil {
			l.c.log.Warn("reading the addresses of the interfaces", "err", err)
			return false
		}
		local = offered(addrs)
	}
	changed = !slices.Equal(local, l.local)
	l.local = local
	l.refreshOwn(now)
	return changed
}

// refreshOwn recomputes our endpoints, and tells peers that are looking for us if they changed.
func (l *loop) refreshOwn(now time.Time) {
	own := ownEndpoints(l.prober.current(), l.local, l.c.sock4.port(), l.c.sock6.port())
	if slices.Equal(own, l.own) {
		return
	}
	l.own = own
	l.c.status.changed()
	l.c.log.Debug("own endpoints", "endpoints", own)
	for _, p := range l.due {
		if _, later := l.calls[p]; !later && p.path.active && !p.path.trusted(now) && l.sharedKey(p) != nil {
			l.call(p)
		}
	}
}

// fresh reports whether our endpoints may go into a CallMeMaybe. Without STUN servers only the
// interfaces are to know.
func (l *loop) fresh(now time.Time) bool {
	if len(l.prober.servers) > 0 {
		r := l.prober.report
		return !l.prober.running && now.Sub(r.at) < freshness
	}
	if now.Sub(l.localAt) >= freshness {
		l.readLocal(now)
	}
	return true
}

func (l *loop) setSTUN(servers []STUNServer) {
	servers = servers[:min(len(servers), maxSTUNServers)]
	servers = slices.DeleteFunc(slices.Clone(servers), func(s STUNServer) bool { return len(l.c.groupFor(s.Addr)) == 0 })
	if slices.Equal(servers, l.prober.servers) {
		return
	}
	l.prober.servers = servers
	l.prober.running = false
	l.startSTUN(time.Now())
}

// wantSTUN is told that traffic begins after a pause.
func (l *loop) wantSTUN(now time.Time) {
	if l.nextSTUN.IsZero() && now.Sub(l.prober.report.at) >= stunPeriodMin {
		l.startSTUN(now)
	}
}

func (l *loop) startSTUN(now time.Time) {
	if l.c.cfg.NoUDP || l.prober.running {
		return
	}
	l.readLocal(now)
	l.c.expected.stun.Clear() // of the round before
	l.sendSTUN(l.prober.start(now))
}

func (l *loop) sendSTUN(out []stunOut) {
	for _, o := range out {
		l.c.expected.stun.Store(o.txid, nil)
		if err := l.c.sendDatagrams(0, [][]byte{bindingRequest(o.txid)}, o.to); err != nil {
			l.c.log.Debug("STUN request not sent", "addr", o.to, "err", err)
		}
	}
}

func (l *loop) handleSTUN(now time.Time, p stunPacket) {
	if !l.prober.reply(now, p.txid, p.mapped) {
		return
	}
	l.refreshOwn(now)
	if l.prober.report.global4.IsValid() && len(l.calls) > 0 {
		l.callAll(now) // the rest of the round would tell little more
	}
}

// afterSTUN sends what waited for the end of a round, and plans the next while there is traffic.
func (l *loop) afterSTUN(now time.Time) {
	if l.prober.running || l.prober.report.at.IsZero() {
		return
	}
	if l.measuredAt != l.prober.report.at {
		l.measuredAt = l.prober.report.at
		l.c.status.changed()
	}
	if len(l.calls) > 0 {
		l.callAll(now)
	}
	if l.nextSTUN.IsZero() && l.anyActive() {
		l.nextSTUN = l.prober.report.at.Add(randomBetween(stunPeriodMin, stunPeriodMax))
	}
}

// networkChanged re-reads the interfaces. If our addresses changed, nothing proven about paths
// holds any more.
func (l *loop) networkChanged() {
	now := time.Now()
	if l.readLocal(now) {
		for _, p := range l.peers {
			l.apply(now, p, p.path.reset(now))
		}
	}
	l.prober.running = false
	l.startSTUN(now)
}
