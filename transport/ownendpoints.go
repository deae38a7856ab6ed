package transport

import (
	"net/netip"
	"slices"
	"time"
)

// This file is the part of the loop that finds our own endpoints.

// readLocal reads the addresses of the interfaces and reports whether they have changed.
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

// refreshOwn recomputes our endpoints. If they have changed, it sends them to the peers that have
// no direct path to us.
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

// fresh reports whether our endpoints are recent enough for a CallMeMaybe. Without STUN servers
// they come from the interfaces alone.
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

// wantSTUN starts a round of STUN when traffic begins after a pause.
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
	l.c.expected.stun.Clear() // requests of the previous round
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
		l.callAll(now) // further answers would add little
	}
}

// afterSTUN sends the CallMeMaybes that waited for the end of a round. While there is traffic, it
// plans the next round.
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

// networkChanged reads the interfaces again. If our addresses have changed, no path counts as
// proven any more.
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
