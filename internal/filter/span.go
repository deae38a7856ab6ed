package filter

import (
	"cmp"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"strings"
)

// family is an address family. It indexes arrays, because each family is filtered separately.
type family int

const (
	ipv4 family = iota
	ipv6
)

// ip is an address as a number, which compares faster than a netip.Addr. Its family is known from
// the context.
type ip struct{ hi, lo uint64 }

var last = [2]ip{ipv4: {lo: math.MaxUint32}, ipv6: {math.MaxUint64, math.MaxUint64}}

func fromAddr(a netip.Addr) (family, ip) {
	if a.Is4() {
		b := a.As4()
		return ipv4, ip{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return ipv6, ip{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])}
}

func (f family) addr(a ip) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	if f == ipv4 {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}

func (a ip) less(b ip) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

func (a ip) compare(b ip) int { return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo)) }

// next returns the address after a. After the last address of IPv6 it is zero.
func (a ip) next() ip {
	a.lo++
	if a.lo == 0 {
		a.hi++
	}
	return a
}

// span is a range of addresses that includes both ends.
type span struct{ first, last ip }

// spanSet is a set of addresses: for each family, spans. After merge they are sorted and neither
// overlap nor touch.
type spanSet [2][]span

// add adds the addresses that a rule names: an address, a prefix without host bits, a range "a-b",
// or "*". Anything else is skipped (section 6.1).
func (s *spanSet) add(text string) {
	if text == "*" {
		s[ipv4] = append(s[ipv4], span{ip{}, last[ipv4]})
		s[ipv6] = append(s[ipv6], span{ip{}, last[ipv6]})
		return
	}
	if strings.Contains(text, "/") {
		if p, err := netip.ParsePrefix(text); err == nil && p == p.Masked() {
			s.addPrefix(p)
		}
		return
	}
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	a, err1 := netip.ParseAddr(from)
	b, err2 := netip.ParseAddr(to)
	if err1 != nil || err2 != nil || a.Zone() != "" || b.Zone() != "" {
		return
	}
	family, first := fromAddr(a)
	other, last := fromAddr(b)
	if family == other && !last.less(first) {
		s[family] = append(s[family], span{first, last})
	}
}

// addPrefixes adds prefixes and merges the set.
func (s *spanSet) addPrefixes(prefixes []netip.Prefix) {
	for _, p := range prefixes {
		if p.IsValid() {
			s.addPrefix(p.Masked())
		}
	}
	s.merge()
}

func (s *spanSet) addPrefix(p netip.Prefix) {
	family, first := fromAddr(p.Addr())
	host := uint(p.Addr().BitLen() - p.Bits())
	end := first
	if host < 64 {
		end.lo |= 1<<host - 1
	} else {
		end.lo = math.MaxUint64
		end.hi |= 1<<(host-64) - 1
	}
	s[family] = append(s[family], span{first, end})
}

// merge sorts the spans and joins those that overlap or touch.
func (s *spanSet) merge() {
	for f, spans := range s {
		slices.SortFunc(spans, func(a, b span) int { return a.first.compare(b.first) })
		joined := spans[:0]
		for _, sp := range spans {
			if n := len(joined) - 1; n >= 0 && (joined[n].last == last[f] || !joined[n].last.next().less(sp.first)) {
				if joined[n].last.less(sp.last) {
					joined[n].last = sp.last
				}
				continue
			}
			joined = append(joined, sp)
		}
		s[f] = joined
	}
}

func (s *spanSet) contains(f family, a ip) bool {
	spans := s[f]
	low, high := 0, len(spans) // searches the first span with last >= a
	for low < high {
		if mid := (low + high) / 2; spans[mid].last.less(a) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low < len(spans) && !a.less(spans[low].first)
}
