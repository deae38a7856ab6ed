package transport

import (
	"net/netip"
	"time"

	"ginnel/internal/disco"
)

// Times of the disco specification, section 3.2.
const (
	heartbeatInterval = 3 * time.Second // between pings of the address in use
	// without a send, heartbeats end; a candidate known by pings alone is dropped
	sessionTimeout    = 45 * time.Second
	trustDuration     = 6500 * time.Millisecond // how long a Pong makes a path trusted
	pingTimeout       = 5 * time.Second         // an unanswered ping is forgotten
	candidateInterval = 5 * time.Second         // between two discovery pings to one candidate
	upgradeInterval   = 60 * time.Second        // between rounds that look for a better path than a working one
	goodEnough        = 5 * time.Millisecond    // at or below this latency no better path is looked for
)

// suspectAfter is how long the answer to a heartbeat may take before packets go through the relay
// too. The specification has no such rule: it waits until trust runs out, which loses up to five
// more seconds of traffic when a path dies. If nothing was sent within heartbeatInterval before the
// heartbeat, no packet is at risk. Then the answer is checked at the next heartbeat, so an idle
// path needs no timer of one second.
const suspectAfter = 1 * time.Second

const (
	maxCandidates  = 100  // for one peer; when full, addresses learned from pings are refused
	maxPings       = 1024 // outstanding to one peer; when full, none are sent until some time out
	plainWireMTU   = 1360 // what an unpadded ping proves
	maxCalledAddrs = 64   // addresses taken from one CallMeMaybe
)

// path finds and keeps the direct path to one peer: which addresses to ping, which one to use, and
// when to stop trusting it (disco specification, section 3). It is a state machine without clock,
// socket or goroutine. Its methods take events with their time and return effects to carry out;
// next says when to call tick.
//
//	          send                   Pong                       heartbeats answered
//	idle ───────────► discovering ──────────► direct, trusted ◄────────────┐
//	 ▲                  ▲      relay only     UDP only  │                  │
//	 │ 45 s without     │                               │ 1 s late, or     │ Pong
//	 │ a send           │ 5 s without an answer         ▼ 6.5 s old        │
//	 └────────────      └────────────────── direct, untrusted ─────────────┘
//	                                          UDP and relay
type path struct {
	txid func() disco.TxID

	candidates map[netip.AddrPort]*candidate
	pings      map[disco.TxID]sentPing

	best       measured  // the path in use; unset: relay only
	trustUntil time.Time // until when best is trusted

	active    bool      // something was sent within sessionTimeout
	lastSend  time.Time // by WireGuard or a user, not by discovery
	heartbeat time.Time // when the next is due, while active
	lastRound time.Time // last discovery round
	lastCall  time.Time // last CallMeMaybe wanted
}

// candidate is an address at which the peer may be reached.
type candidate struct {
	mapped     bool       // listed in the network map
	called     bool       // listed in the last CallMeMaybe
	pingedAt   time.Time  // last ping that the peer sent from there
	pingedTxID disco.TxID // of that ping
	learned    bool       // first known by such a ping, so only the age of the last one counts
	triedAt    time.Time  // our last discovery ping
	latency    time.Duration
}

// sentPing is a ping without a Pong so far.
type sentPing struct {
	addr      netip.AddrPort // zero: sent through the relay
	at        time.Time
	heartbeat bool // see suspectAfter
}

// effects is what the caller has to do for the state machine.
type effects struct {
	pings       []outPing
	callMeMaybe bool // send our endpoints through the relay, after the pings
}

// merge adds the effects of other.
func (e *effects) merge(other effects) {
	e.pings = append(e.pings, other.pings...)
	e.callMeMaybe = e.callMeMaybe || other.callMeMaybe
}

// outPing is a ping to send now.
type outPing struct {
	addr netip.AddrPort
	txid disco.TxID
}

func newPath(txid func() disco.TxID) *path {
	return &path{
		txid:       txid,
		candidates: make(map[netip.AddrPort]*candidate),
		pings:      make(map[disco.TxID]sentPing),
	}
}

// setEndpoints replaces the peer's endpoints of the network map.
func (p *path) setEndpoints(now time.Time, addrs []netip.AddrPort) {
	for _, c := range p.candidates {
		c.mapped = false
	}
	for _, a := range addrs {
		if c := p.candidates[a]; c != nil {
			c.mapped = true
		} else if usable(a) && p.hasRoom(now) {
			p.candidates[a] = &candidate{mapped: true}
		}
	}
	p.sweep(now)
}

// usable reports whether a can be the address of a peer. Link-local IPv6 cannot, because it needs a
// zone, which messages do not carry (section 2.4).
func usable(a netip.AddrPort) bool {
	ip := a.Addr()
	return a.IsValid() && a.Port() != 0 && !ip.IsUnspecified() && !ip.IsMulticast() &&
		!(ip.Is6() && ip.IsLinkLocalUnicast()) && ip.Zone() == ""
}

func (p *path) hasRoom(now time.Time) bool {
	if len(p.candidates) >= maxCandidates {
		p.sweep(now)
	}
	return len(p.candidates) < maxCandidates
}

// sweep drops candidates that neither the map, nor a CallMeMaybe, nor a recent ping names (section
// 3.1).
func (p *path) sweep(now time.Time) {
	for a, c := range p.candidates {
		if p.stale(now, a, c) {
			p.remove(a)
		}
	}
}

func (p *path) stale(now time.Time, a netip.AddrPort, c *candidate) bool {
	switch {
	case c.called:
		return false
	case a == p.best.addr && p.trusted(now):
		return false // it works; the specification drops it and finds it again
	case c.learned:
		return now.Sub(c.pingedAt) >= sessionTimeout
	}
	return !c.mapped
}

func (p *path) remove(a netip.AddrPort) {
	delete(p.candidates, a)
	if p.best.addr == a {
		p.clearBest()
	}
}

func (p *path) clearBest() {
	p.best = measured{}
	p.trustUntil = time.Time{}
}

// sent notes that WireGuard or a user has sent something to the peer since the last call.
func (p *path) sent(now time.Time) effects {
	p.lastSend = now
	if p.active {
		return effects{}
	}
	p.active = true
	p.heartbeat = now.Add(heartbeatInterval)
	var e effects
	if p.best.isSet() {
		p.beat(now, &e)
	}
	if !p.trusted(now) {
		p.round(now, &e)
	}
	return e
}

// probe is sent for a user's ping command. Without a trusted path it starts a discovery round too.
func (p *path) probe(now time.Time) effects {
	e := p.sent(now)
	if p.trusted(now) {
		p.ping(now, p.best.addr, &e)
	} else if len(e.pings) == 0 {
		p.round(now, &e)
	}
	return e
}

// relayPing registers a ping through the relay and returns its id.
func (p *path) relayPing(now time.Time) (id disco.TxID, ok bool) {
	if len(p.pings) >= maxPings {
		return id, false
	}
	id = p.txid()
	p.pings[id] = sentPing{at: now}
	return id, true
}

// route returns where packets go now: to direct if it is valid, and through the relay unless direct
// is trusted.
func (p *path) route(now time.Time) (direct netip.AddrPort, relay bool) {
	return p.best.addr, !p.trusted(now)
}

// trusted reports whether packets take the direct path alone.
func (p *path) trusted(now time.Time) bool { return p.best.isSet() && !now.After(p.trustUntil) }

// pinged takes a ping that the peer sent directly from addr. It reports false for a duplicate,
// which needs no second answer (section 2.2). Only a Pong makes addr a path. While we have traffic
// and no path, addr is pinged at once, as any other new candidate is with the next packet.
func (p *path) pinged(now time.Time, addr netip.AddrPort, txid disco.TxID) (e effects, first bool) {
	c := p.candidates[addr]
	if c == nil {
		if !usable(addr) || !p.hasRoom(now) {
			return e, true
		}
		c = &candidate{learned: true}
		p.candidates[addr] = c
	} else if c.pingedTxID == txid && !c.pingedAt.IsZero() {
		return e, false
	}
	c.pingedAt, c.pingedTxID = now, txid
	if p.active && !p.trusted(now) {
		p.try(now, addr, c, &e)
	}
	return e, true
}

// ponged takes a Pong that arrived directly. It returns the ping that it answers; ok is false if
// there is no such ping.
func (p *path) ponged(now time.Time, txid disco.TxID) (sentPing, bool) {
	sent, ok := p.pings[txid]
	if !ok {
		return sent, false
	}
	delete(p.pings, txid)
	c := p.candidates[sent.addr]
	if c == nil {
		return sent, true // not a candidate any more, or pinged through the relay
	}
	c.latency = now.Sub(sent.at)
	m := measured{addr: sent.addr, latency: c.latency, mtu: plainWireMTU}
	if better(m, p.best) || !p.trusted(now) {
		p.best = m
	}
	if p.best.addr == m.addr {
		p.best.latency = m.latency
		p.trustUntil = now.Add(trustDuration)
		p.forgive(sent.at)
	}
	return sent, true
}

// forgive clears heartbeats sent until then, because a later one was answered.
func (p *path) forgive(then time.Time) {
	for id, s := range p.pings {
		if s.heartbeat && !s.at.After(then) {
			s.heartbeat = false
			p.pings[id] = s
		}
	}
}

// pongedByRelay takes a Pong that came through a relay. It ends the ping and proves nothing about
// an address (section 2.3, rule 5).
func (p *path) pongedByRelay(txid disco.TxID) (sentPing, bool) {
	sent, ok := p.pings[txid]
	delete(p.pings, txid)
	return sent, ok
}

// calledMaybe takes the endpoints of a CallMeMaybe. They replace those of the previous one, and all
// candidates are pinged at once (section 2.4).
func (p *path) calledMaybe(now time.Time, addrs []netip.AddrPort) effects {
	listed := make(map[netip.AddrPort]bool, len(addrs))
	for _, a := range addrs[:min(len(addrs), maxCalledAddrs)] {
		if !usable(a) {
			continue
		}
		listed[a] = true
		c := p.candidates[a]
		if c == nil {
			if !p.hasRoom(now) {
				continue
			}
			c = new(candidate)
			p.candidates[a] = c
		}
		c.called = true
	}
	for a, c := range p.candidates {
		if c.called && !listed[a] {
			p.remove(a)
			continue
		}
		c.triedAt = time.Time{}
	}
	// The peer may not know our endpoints. The specification answers with pings alone, which a NAT in
	// front of the peer drops unless the peer pings us too. So we send a CallMeMaybe back, unless we
	// have sent one just now.
	e := effects{callMeMaybe: now.Sub(p.lastCall) >= candidateInterval}
	p.round(now, &e)
	return e
}

// sendFailed notes that the network refused a packet to addr as unreachable.
func (p *path) sendFailed(addr netip.AddrPort) {
	if p.best.addr == addr {
		p.clearBest()
	}
	if c := p.candidates[addr]; c != nil {
		*c = candidate{mapped: c.mapped, called: c.called, learned: c.learned, pingedAt: c.pingedAt, triedAt: c.triedAt}
	}
}

// reset forgets what was proven about paths, because our own network or the peer has changed. The
// candidates stay (section 3.8).
func (p *path) reset(now time.Time) effects {
	p.clearBest()
	clear(p.pings)
	p.lastCall = time.Time{}
	for _, c := range p.candidates {
		c.triedAt, c.latency = time.Time{}, 0
	}
	var e effects
	if p.active {
		p.round(now, &e)
	}
	return e
}

// tick does what is due.
func (p *path) tick(now time.Time) effects {
	var e effects
	suspect := p.expirePings(now)
	if !p.active {
		return e
	}
	if now.Sub(p.lastSend) > sessionTimeout {
		p.active = false
		return e
	}
	if suspect && p.trusted(now) {
		p.trustUntil = now.Add(-1)
		p.beat(now, &e)
	}
	due := !now.Before(p.heartbeat)
	if due {
		p.heartbeat = now.Add(heartbeatInterval)
		if p.best.isSet() && len(e.pings) == 0 {
			p.beat(now, &e)
		}
	}
	// Without a path every tick starts a round. candidateInterval limits the pings to each candidate.
	if !p.trusted(now) || due && p.wantsUpgrade(now) {
		p.round(now, &e)
	}
	return e
}

// expirePings drops pings that timed out, and the path in use if it is not trusted and its ping
// timed out. It reports whether the answer to a heartbeat is late.
func (p *path) expirePings(now time.Time) (suspect bool) {
	for id, s := range p.pings {
		if now.Sub(s.at) >= pingTimeout {
			delete(p.pings, id)
			if s.addr == p.best.addr && !p.trusted(now) {
				p.clearBest()
			}
			continue
		}
		if s.heartbeat && s.addr == p.best.addr && now.Sub(s.at) >= suspectAfter {
			suspect = true
		}
	}
	return suspect
}

// wantsUpgrade reports whether it is time to look for a better path than the one in use (section
// 3.4).
func (p *path) wantsUpgrade(now time.Time) bool {
	return p.lastRound.IsZero() || p.best.latency > goodEnough && now.Sub(p.lastRound) >= upgradeInterval
}

// round pings every candidate that was not pinged within candidateInterval.
func (p *path) round(now time.Time, e *effects) {
	p.sweep(now)
	asked := false
	for a, c := range p.candidates {
		asked = p.try(now, a, c, e) || asked
	}
	if !asked && len(p.candidates) > 0 {
		return
	}
	// The CallMeMaybe is sent even if there was nothing to ping, because the peer may know none of our
	// endpoints.
	p.lastRound = now
	if now.Sub(p.lastCall) >= candidateInterval {
		e.callMeMaybe = true
	}
	if e.callMeMaybe {
		p.lastCall = now
	}
}

// try pings a candidate unless it was pinged within candidateInterval.
func (p *path) try(now time.Time, a netip.AddrPort, c *candidate, e *effects) bool {
	if !c.triedAt.IsZero() && now.Sub(c.triedAt) < candidateInterval || !p.ping(now, a, e) {
		return false
	}
	c.triedAt = now
	return true
}

// ping pings addr. It reports false if too many pings are outstanding.
func (p *path) ping(now time.Time, addr netip.AddrPort, e *effects) bool {
	return p.ask(sentPing{addr: addr, at: now}, e)
}

// beat sends a heartbeat, i.e. it pings the address in use.
func (p *path) beat(now time.Time, e *effects) {
	p.ask(sentPing{addr: p.best.addr, at: now, heartbeat: true}, e)
}

func (p *path) ask(s sentPing, e *effects) bool {
	if len(p.pings) >= maxPings {
		return false
	}
	id := p.txid()
	p.pings[id] = s
	e.pings = append(e.pings, outPing{addr: s.addr, txid: id})
	return true
}

// next is when tick has something to do; zero means never.
func (p *path) next(now time.Time) time.Time {
	var t time.Time
	for _, s := range p.pings {
		t = firstTime(t, s.at.Add(pingTimeout))
		if p.active && s.heartbeat && s.addr == p.best.addr && p.trusted(now) && s.at.Sub(p.lastSend) <= heartbeatInterval {
			t = firstTime(t, s.at.Add(suspectAfter))
		}
	}
	if p.active {
		t = firstTime(t, p.heartbeat)
		if p.trusted(now) {
			t = firstTime(t, p.trustUntil.Add(1))
		}
	}
	return t
}

// firstTime returns the earlier of two times, where zero means never.
func firstTime(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
