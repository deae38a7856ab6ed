// Package filter is the packet filter of the network map (control specification, section 6). Every
// node applies it to the packets that its peers send to it.
//
// Rules can only allow. They are compiled when the map changes, so that a packet costs a few binary
// searches however many rules exist. The flow table is the only mutable state on the packet path: a
// packet of a known flow takes no lock, and no packet allocates. The package starts no goroutines.
package filter

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"ginnel/control"
)

// Config is what a Filter enforces.
type Config struct {
	// Rules are the rules of all chunks of the map's filter. None: only answers are accepted.
	Rules []control.FilterRule

	// Local are the node's own addresses and the routes that it advertises. Packets to any other
	// destination are refused.
	Local []netip.Prefix

	// HasCapability reports whether the peer at src has a node attribute, for rules whose source is
	// "cap:ATTRIBUTE". It is called on the packet path, from several goroutines. Nil: no peer has any.
	HasCapability func(src netip.Addr, capability string) bool

	// Jailed are the addresses of the peers that the map declares jailed: no rule applies to them
	// (section 6.4). Flows that were opened before a peer was jailed give it no access either.
	Jailed []netip.Prefix
}

// A Filter holds the rules and the flow table. The table contains only the flows that Sent reports;
// the netstack tracks the flows of its own connections. The zero value, for a node without a map,
// accepts nothing. All methods may be called concurrently.
type Filter struct {
	program atomic.Pointer[program]

	mu     sync.Mutex // serializes Set
	open   *flowTable // flows to peers that are not jailed; nil before the first Set
	jailed *flowTable // flows to jailed peers; nil until a peer is jailed
}

// program is a compiled Config. It is immutable, except for the flow tables.
type program struct {
	local  spanSet
	jailed spanSet
	rules  *ruleSet

	hasCapability func(netip.Addr, string) bool

	flows       *flowTable
	jailedFlows *flowTable // nil if no peer is jailed
}

// Set replaces the configuration and keeps the flow tables (section 6.3). It fails if a rule has
// the obsolete form with separate bits; then the former configuration stays in force.
func (f *Filter) Set(cfg Config) error {
	rules, err := compile(cfg.Rules)
	if err != nil {
		return err
	}
	p := &program{rules: rules, hasCapability: cfg.HasCapability}
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
	if f.jailed == nil && len(cfg.Jailed) > 0 {
		f.jailed = newFlowTable()
	}
	p.flows = f.open
	if len(cfg.Jailed) > 0 {
		p.jailedFlows = f.jailed
	}
	f.program.Store(p)
	return nil
}

// In reports whether a packet from a peer is accepted. WireGuard has verified its source address.
//
// A fragment other than the first has no transport header, so In refuses it. The netstack does not
// ask about such fragments: they pass, and its reassembler drops datagrams whose fragments overlap.
func (f *Filter) In(b []byte) bool {
	if len(b) == 0 {
		return true // a WireGuard keepalive
	}
	var h headers
	p := f.program.Load()
	return h.parse(b) && p != nil && p.in(&h)
}

// Allows reports whether the rules allow UDP datagrams from src to dst. It decides as In does about
// the first datagram.
func (f *Filter) Allows(src netip.Addr, dst netip.AddrPort) bool {
	h := headers{proto: protoUDP, dstPort: dst.Port()}
	h.family, h.src = fromAddr(src)
	_, h.dst = fromAddr(dst.Addr())
	p := f.program.Load()
	return p != nil && src.Is4() == dst.Addr().Is4() && p.in(&h)
}

// Sent records that this node has sent a UDP datagram from src to dst, so that answers are
// accepted.
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

// in decides about a packet by section 6.2.
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
	case h.answer: // needs no rule: the netstack drops it unless it matches a connection or request
		return true
	case h.tracked() && flows.knows(h.flow(h.dst, h.dstPort, h.src, h.srcPort)):
		return true
	}
	return rules != nil && rules.allow(h, p.hasCapability)
}
