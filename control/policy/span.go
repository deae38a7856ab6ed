package policy

import (
	"net/netip"
	"slices"
)

// span is a range of addresses of one family that includes both ends.
type span struct{ first, last netip.Addr }

func addrSpan(a netip.Addr) span { return span{a, a} }

func prefixSpan(p netip.Prefix) span {
	p = p.Masked()
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(bytes); bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return span{p.Addr(), last}
}

func (s span) contains(a netip.Addr) bool {
	return s.first.BitLen() == a.BitLen() && !a.Less(s.first) && !s.last.Less(a)
}

func (s span) covers(other span) bool { return s.contains(other.first) && s.contains(other.last) }

// overlap returns the addresses that are in both, and false if there are none.
func (s span) overlap(other span) (span, bool) {
	if other.first.BitLen() != s.first.BitLen() {
		return span{}, false
	}
	if s.first.Less(other.first) {
		s.first = other.first
	}
	if other.last.Less(s.last) {
		s.last = other.last
	}
	return s, !s.last.Less(s.first)
}

// overlaps returns the addresses that are both in a span of a and in a span of b.
func overlaps(a, b []span) []span {
	var common []span
	for _, s := range a {
		for _, other := range b {
			if both, ok := s.overlap(other); ok {
				common = append(common, both)
			}
		}
	}
	return common
}

// prefix returns s as a prefix, and false if s is not exactly one.
func (s span) prefix() (netip.Prefix, bool) {
	a, b := s.first.AsSlice(), s.last.AsSlice()
	bits := 0
	for bits < 8*len(a) && (a[bits/8]^b[bits/8])&(0x80>>(bits%8)) == 0 {
		bits++
	}
	p := netip.PrefixFrom(s.first, bits)
	return p, prefixSpan(p) == s
}

// String returns the form of s in a FilterRule (control specification, section 6.1).
func (s span) String() string {
	if s.first == s.last {
		return s.first.String()
	}
	if p, ok := s.prefix(); ok {
		return p.String()
	}
	return s.first.String() + "-" + s.last.String()
}

// merge sorts spans and joins those that overlap or touch. Nodes get consecutive addresses, so a
// group of nodes often becomes a few spans, which keeps packet filters short.
func merge(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return a.first.Compare(b.first) })
	joined := spans[:0]
	for _, s := range spans {
		if n := len(joined) - 1; n >= 0 && joined[n].touches(s) {
			if joined[n].last.Less(s.last) {
				joined[n].last = s.last
			}
			continue
		}
		joined = append(joined, s)
	}
	return joined
}

// touches reports whether there is no gap between s and next, which begins no earlier than s.
func (s span) touches(next span) bool {
	return s.first.BitLen() == next.first.BitLen() && (!s.last.Less(next.first) || s.last.Next() == next.first)
}

// within reports whether a is in one of spans, which are merged.
func within(spans []span, a netip.Addr) bool {
	i, exact := slices.BinarySearchFunc(spans, a, func(s span, a netip.Addr) int { return s.first.Compare(a) })
	return exact || i > 0 && spans[i-1].contains(a)
}

// meets reports whether s has an address in one of spans, which are merged.
func meets(spans []span, s span) bool {
	i, _ := slices.BinarySearchFunc(spans, s.first, func(one span, a netip.Addr) int { return one.last.Compare(a) })
	if i == len(spans) {
		return false
	}
	_, ok := spans[i].overlap(s)
	return ok
}

func spanOf(first, last string) span {
	return span{netip.MustParseAddr(first), netip.MustParseAddr(last)}
}

// internet is the destinations of exit nodes: unicast addresses that are neither private nor in the
// mesh ranges.
var internet = []span{
	spanOf("1.0.0.0", "9.255.255.255"),
	spanOf("11.0.0.0", "100.63.255.255"),
	spanOf("100.128.0.0", "126.255.255.255"),
	spanOf("128.0.0.0", "169.253.255.255"),
	spanOf("169.255.0.0", "172.15.255.255"),
	spanOf("172.32.0.0", "192.167.255.255"),
	spanOf("192.169.0.0", "223.255.255.255"),
	spanOf("2000::", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
}
