// Package filter decides which IP packets of the mesh pass: the packet filter of the network map
// (control specification, section 6), which every node enforces at its own door.
//
// Rules only allow. What they say is compiled once, when the map changes, so that a packet costs a
// few binary searches however many rules there are. The state that packets share is the flow table
// alone; a packet of a flow that is known takes no lock, and no packet allocates. The package
// starts no goroutines.
package filter

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"ginnel/control"
)

// Config is what a Filter enforces.
type Config struct {
	// Rules are those of all chunks of the map's filter. None: only answers come in.
	Rules []control.FilterRule

	// Local are the own addresses and the routes that this node advertises. Nothing comes in for
	// another destination.
	Local []netip.Prefix

	// HasCapability says whether the peer at an address has a node attribute, for the sources
	// "cap:ATTRIBUTE". It is called while packets wait, from several goroutines. Nil: no peer has any.
	HasCapability func(src netip.Addr, capability string) bool

	// Jailed are the sources that the rules are not for (section 6.4): the peers that the map says are
	// jailed. Answers to flows of the time before do not pass either.
	Jailed []netip.Prefix
}

// A Filter holds the rules and remembers the flows that have left, as far as it is told: the stack
// knows most of them itself. Its zero value, the filter of a node without a map, lets nothing in.
// All methods may be called at the same time.
type Filter struct {
	program atomic.Pointer[program]

	mu       sync.Mutex // held by Set
	open     *flowTable // flows of peers that the rules are for; nil until Set
	shielded *flowTable // flows of jailed peers; nil until there are any
}

// program is a Config made ready for packets. It does not change.
type program struct {
	local  spanSet
	jailed spanSet
	rules  *ruleSet // nil before the first Set
	grants []grant

	hasCapability func(netip.Addr, string) bool

	flows       *flowTable
	jailedFlows *flowTable // nil if nobody is jailed
}

// Set replaces what is enforced; the flow table stays (section 6.3). On an error, which a rule in
// the obsolete form with separate bits is, everything stays as it was.
func (f *Filter) Set(cfg Config) error {
	compiled, err := compile(cfg.Rules)
	if err != nil {
		return err
	}
	p := &program{rules: compiled.rules, grants: compiled.grants, hasCapability: cfg.HasCapability}
	if p.hasCapability == nil {
		p.hasCapability = func(netip.Addr, string) bool { return false }
	}
	p.local.addPrefixes(cfg.Local)
	p.jailed.addPrefixes(cfg.Jailed)

	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		f.open = newFlowTable()
	}
	if f.shielded == nil && len(cfg.Jailed) > 0 {
		f.shielded = newFlowTable()
	}
	p.flows = f.open
	if len(cfg.Jailed) > 0 {
		p.jailedFlows = f.shielded
	}
	f.program.Store(p)
	return nil
}

// In reports whether a packet from a peer, whose source address WireGuard has checked, may come in.
func (f *Filter) In(b []byte) bool {
	if len(b) == 0 {
		return true // a keepalive
	}
	var h headers
	switch h.parse(b) {
	case malformed, strayed:
		return false
	case laterFragment:
		return true // without its first it comes to nothing
	}
	p := f.program.Load()
	return p != nil && p.in(&h)
}

// Allows reports whether the rules let src send UDP datagrams to dst, as In decides about the first.
func (f *Filter) Allows(src netip.Addr, dst netip.AddrPort) bool {
	h := headers{proto: protoUDP, dstPort: dst.Port()}
	h.family, h.src = fromAddr(src)
	_, h.dst = fromAddr(dst.Addr())
	p := f.program.Load()
	return p != nil && src.Is4() == dst.Addr().Is4() && p.in(&h)
}

// Sent remembers a UDP datagram that this node has sent from src, so that answers come in.
func (f *Filter) Sent(src, dst netip.AddrPort) {
	h := headers{proto: protoUDP, srcPort: src.Port(), dstPort: dst.Port()}
	h.family, h.src = fromAddr(src.Addr())
	_, h.dst = fromAddr(dst.Addr())
	f.sent(&h)
}

func (f *Filter) sent(h *headers) {
	p := f.program.Load()
	if p == nil || !h.tracked() {
		return
	}
	flows := p.flows
	if p.jailed.contains(h.family, h.dst) {
		flows = p.jailedFlows
	}
	flows.remember(h.flow(h.src, h.srcPort, h.dst, h.dstPort))
}

// Granted returns the capabilities that a peer at src has at dst, an address of this node, in the
// order of the rules (section 6.5). It is nil if there are none.
func (f *Filter) Granted(src, dst netip.Addr) control.CapMap {
	p := f.program.Load()
	if p == nil {
		return nil
	}
	if family, a := fromAddr(src); p.jailed.contains(family, a) {
		return nil
	}
	var granted control.CapMap
	for i := range p.grants {
		granted = p.grants[i].add(granted, src, dst, p.hasCapability)
	}
	return granted
}

// in is the decision of section 6.2 about a packet that has a transport header.
func (p *program) in(h *headers) bool {
	if !p.local.contains(h.family, h.dst) {
		return false
	}
	rules, flows := p.rules, p.flows
	if p.jailedFlows != nil && p.jailed.contains(h.family, h.src) {
		rules, flows = nil, p.jailedFlows
	}
	switch {
	case h.proto == protoTSMP:
		return true
	case h.answer: // what begins nothing needs no rule: the stack knows what it answers
		return true
	case h.tracked() && flows.knows(h.flow(h.dst, h.dstPort, h.src, h.srcPort)):
		return true
	}
	return rules != nil && rules.allow(h, p.hasCapability)
}
