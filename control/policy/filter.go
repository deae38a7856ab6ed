package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"

	"ginnel/control"
)

// Rules returns the packet filter of a node: what is allowed to its own addresses, to its routes
// and, if it is an exit node, to the Internet. It is never nil, because a nil chunk in a network
// map deletes the filter. The result is shared among nodes and must not be changed.
func (c *Compiled) Rules(id int64) control.Rules {
	i, ok := c.index[id]
	switch {
	case !ok:
		return control.Rules{}
	case c.shared != nil:
		return c.shared
	}
	return c.rulesOf(i)
}

// Sum returns the hash of a node's rules without making the rules.
func (c *Compiled) Sum(id int64) Sum {
	i, ok := c.index[id]
	switch {
	case !ok:
		return Sum{}
	case c.shared != nil:
		return c.sharedSum
	}
	return c.sum(i)
}

// everyone is used instead of the index of a member when all have the same rules.
const everyone = -1

func (c *Compiled) rulesOf(member int) control.Rules {
	rules := control.Rules{}
	c.each(member, func(from *senders, r control.FilterRule) {
		r.SrcIPs = from.names
		rules = append(rules, r)
	})
	return rules
}

func (c *Compiled) sum(member int) Sum {
	h := sha256.New()
	var b []byte
	c.each(member, func(from *senders, r control.FilterRule) {
		b = append(b[:0], from.sum[:]...)
		b = append(b, byte(len(r.IPProto)))
		for _, proto := range r.IPProto {
			b = append(b, byte(proto))
		}
		for _, d := range r.DstPorts {
			b = append(append(b, d.IP...), ' ')
			b = binary.BigEndian.AppendUint16(b, d.Ports.First)
			b = binary.BigEndian.AppendUint16(b, d.Ports.Last)
		}
		if r.CapGrant != nil {
			text, err := json.Marshal(r.CapGrant)
			if err != nil {
				panic(fmt.Sprintf("policy: internal error: encoding a grant: %v", err))
			}
			b = append(b, text...)
		}
		// The length separates the rules: without it, different lists could hash the same bytes.
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	})
	return Sum(h.Sum(nil))
}

// each calls f with each rule of a member. The sources are passed separately, because they are long
// and shared.
func (c *Compiled) each(index int, f func(from *senders, r control.FilterRule)) {
	var m *member
	if index != everyone {
		m = c.members[index]
	}
	for i, r := range c.rules {
		if m != nil && !c.receives.has(index, i) {
			continue
		}
		from := c.senders[i].of(r, m)
		if from == nil {
			continue
		}
		if r.app != nil {
			if to := r.prefixes(m); len(to) > 0 {
				f(from, control.FilterRule{CapGrant: []control.CapGrant{{Dsts: to, CapMap: r.app}}})
			}
			continue
		}
		if to := r.destinations(m); len(to) > 0 {
			f(from, control.FilterRule{DstPorts: to, IPProto: r.protos})
		}
	}
}

// destinations returns the rule's destinations at and behind a member.
func (r *rule) destinations(m *member) []control.NetPortRange {
	var all []control.NetPortRange
	for _, t := range r.dst {
		if t.who.kind == anything {
			all = appendPorts(all, "*", t.ports)
			continue
		}
		for _, s := range t.who.at(m) {
			all = appendPorts(all, s.String(), t.ports)
		}
	}
	return all
}

func appendPorts(all []control.NetPortRange, where string, ports []control.PortRange) []control.NetPortRange {
	for _, p := range ports {
		all = append(all, control.NetPortRange{IP: where, Ports: p})
	}
	return all
}

// prefixes returns the member's own addresses that the rule's destinations select.
func (r *rule) prefixes(m *member) []netip.Prefix {
	var own []netip.Prefix
	for _, a := range m.addrs {
		for _, t := range r.dst {
			if t.who.names(m) || t.who.kind == addresses && t.who.span.contains(a.first) {
				own = append(own, netip.PrefixFrom(a.first, a.first.BitLen()))
				break
			}
		}
	}
	return own
}
