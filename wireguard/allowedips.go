package wireguard

import (
	"cmp"
	"net/netip"
	"slices"
	"sync/atomic"

	"ginnel/key"
)

// allowedIPs is the cryptokey routing table (section 2): it maps addresses to peers. Nearly all
// allowed IPs of a mesh are single addresses, found by one lookup. The other prefixes are tried one
// by one, the longest first.
type allowedIPs struct {
	hosts table[netip.Addr, *peer]
	nets  atomic.Pointer[[]allowedNet]
}

// allowedNet is an allowed prefix with more than one address.
type allowedNet struct {
	prefix netip.Prefix
	peer   *peer
}

func (r *allowedIPs) init() { r.hosts.part = func(a netip.Addr) byte { return a.As16()[15] } }

// set replaces the allowed IPs of p. Prefixes that p keeps are never missing in between. Calls must
// not overlap.
func (r *allowedIPs) set(p *peer, prefixes []netip.Prefix) {
	before := p.prefixes
	p.prefixes = make([]netip.Prefix, len(prefixes))
	for i, prefix := range prefixes {
		p.prefixes[i] = prefix.Masked()
	}
	nets := slices.DeleteFunc(r.networks(), func(o allowedNet) bool {
		return o.peer == p || slices.Contains(p.prefixes, o.prefix)
	})
	for _, prefix := range p.prefixes {
		if prefix.IsSingleIP() {
			r.hosts.set(prefix.Addr(), p)
		} else {
			nets = append(nets, allowedNet{prefix, p})
		}
	}
	r.setNetworks(nets)
	for _, prefix := range before {
		if prefix.IsSingleIP() && !slices.Contains(p.prefixes, prefix) {
			r.hosts.remove(prefix.Addr(), p)
		}
	}
}

// remove removes the allowed IPs of p. Calls of remove and set must not overlap.
func (r *allowedIPs) remove(p *peer) { r.set(p, nil) }

// networks returns a copy of nets.
func (r *allowedIPs) networks() []allowedNet {
	if nets := r.nets.Load(); nets != nil {
		return slices.Clone(*nets)
	}
	return nil
}

func (r *allowedIPs) setNetworks(nets []allowedNet) {
	if old := r.nets.Load(); len(nets) == 0 && (old == nil || len(*old) == 0) {
		return
	}
	slices.SortStableFunc(nets, func(a, b allowedNet) int { return cmp.Compare(b.prefix.Bits(), a.prefix.Bits()) })
	r.nets.Store(&nets)
}

// lookup returns the peer that has the longest prefix containing a, nil if there is none.
func (r *allowedIPs) lookup(a netip.Addr) *peer {
	if p := r.hosts.get(a); p != nil {
		return p
	}
	if nets := r.nets.Load(); nets != nil {
		for _, o := range *nets {
			if o.prefix.Contains(a) {
				return o.peer
			}
		}
	}
	return nil
}

// Owner returns the peer to which packets for a are sent. It reports false if there is none.
func (d *Device) Owner(a netip.Addr) (key.NodePublic, bool) {
	if p := d.allowedIPs.lookup(a); p != nil {
		return p.key, true
	}
	return key.NodePublic{}, false
}
