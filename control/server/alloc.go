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

var errNoAddress = errors.New("no address is free any more")

// addressPlan says which addresses nodes get: the same number within a prefix of each family. A
// family whose prefix is not valid is not given out.
type addressPlan struct{ v4, v6 netip.Prefix }

func newAddressPlan(v4, v6 netip.Prefix) (addressPlan, error) {
	switch {
	case v4.IsValid() && (!v4.Addr().Is4() || v4.Bits() > 30):
		return addressPlan{}, fmt.Errorf("%s is no range of IPv4 addresses for nodes", v4)
	case v6.IsValid() && (!v6.Addr().Is6() || v6.Bits() > 126):
		return addressPlan{}, fmt.Errorf("%s is no range of IPv6 addresses for nodes", v6)
	}
	return addressPlan{v4.Masked(), v6.Masked()}, nil
}

// size is the number of pairs, unusable ones included.
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

// next returns the first pair after cursor that is free, and the cursor for the time after. Ranges
// are gone through from end to end before an address is given a second time, so that nobody meets
// the address of a node that has just left.
func (p addressPlan) next(cursor uint64, taken func(netip.Addr) bool) (v4, v6 netip.Addr, after uint64, err error) {
	size := p.size()
	for range size {
		cursor++
		if cursor >= size {
			cursor = 1 // the first is the address of the net
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
		return true // the family is not given out
	}
	return !meshaddr.IsReserved(a) && !taken(a)
}

// offset returns the n-th address of a prefix.
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
