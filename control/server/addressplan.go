package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"

	"ginnel/internal/meshaddr"
)

var errNoAddress = errors.New("no free address is left")

// addressPlan assigns node addresses: addresses with the same offset in the IPv4 and the IPv6
// prefix. An invalid prefix turns its family off.
type addressPlan struct{ v4, v6 netip.Prefix }

func newAddressPlan(v4, v6 netip.Prefix) (addressPlan, error) {
	switch {
	case v4.IsValid() && (!v4.Addr().Is4() || v4.Bits() > 30):
		return addressPlan{}, fmt.Errorf("%s is not a usable IPv4 range for nodes: at most 30 prefix bits", v4)
	case v6.IsValid() && (!v6.Addr().Is6() || v6.Bits() > 126):
		return addressPlan{}, fmt.Errorf("%s is not a usable IPv6 range for nodes: at most 126 prefix bits", v6)
	}
	return addressPlan{v4.Masked(), v6.Masked()}, nil
}

// size returns the number of offsets, including unusable ones.
func (p addressPlan) size() uint64 {
	n := uint64(math.MaxUint32)
	if p.v4.IsValid() {
		n = min(n, 1<<(32-p.v4.Bits())-1) // the last is the broadcast address
	}
	if p.v6.IsValid() && p.v6.Bits() > 96 {
		n = min(n, 1<<(128-p.v6.Bits()))
	}
	return n
}

// next returns the first free address pair after cursor, and the next cursor. The whole range is
// used before an address is assigned again, so that peers do not mistake a new node for one that
// was just deleted.
func (p addressPlan) next(cursor uint64, taken func(netip.Addr) bool) (v4, v6 netip.Addr, after uint64, err error) {
	size := p.size()
	for range size {
		cursor++
		if cursor >= size {
			cursor = 1 // offset 0 is the network address
		}
		v4, v6 = offset(p.v4, cursor), offset(p.v6, cursor)
		if usable(v4, taken) && usable(v6, taken) {
			return v4, v6, cursor, nil
		}
	}
	return netip.Addr{}, netip.Addr{}, cursor, errNoAddress
}

func usable(a netip.Addr, taken func(netip.Addr) bool) bool {
	if !a.IsValid() {
		return true // the family is off
	}
	return !meshaddr.IsReserved(a) && !taken(a)
}

// offset returns the address at offset n of a prefix.
func offset(p netip.Prefix, n uint64) netip.Addr {
	switch {
	case !p.IsValid():
		return netip.Addr{}
	case p.Addr().Is4():
		b := p.Addr().As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
		return netip.AddrFrom4(b)
	}
	b := p.Addr().As16()
	low, carry := bits.Add64(binary.BigEndian.Uint64(b[8:]), n, 0)
	binary.BigEndian.PutUint64(b[8:], low)
	binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])+carry)
	return netip.AddrFrom16(b)
}
