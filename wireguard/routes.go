package wireguard

import (
	"cmp"
	"net/netip"
	"slices"
	"sync/atomic"

	"ginnel/internal/key"
)

// routes tells whose an address is. Nearly all of a mesh are single addresses, which are looked up;
// the rest is tried from the longest on.
type routes struct {
	hosts table[netip.Addr, *peer]
	nets  atomic.Pointer[[]route]
}

type route struct {
	prefix netip.Prefix
	peer   *peer
}

func (r *routes) init() { r.hosts.part = func(a netip.Addr) byte { return a.As16()[15] } }

// set makes prefixes all that p has. What stays is there all the time. Whoever sets is alone.
func (r *routes) set(p *peer, prefixes []netip.Prefix) {
	before := p.allowed
	p.allowed = make([]netip.Prefix, len(prefixes))
	for i, prefix := range prefixes {
		p.allowed[i] = prefix.Masked()
	}
	nets := slices.DeleteFunc(r.networks(), func(o route) bool { return o.peer == p || slices.Contains(p.allowed, o.prefix) })
	for _, prefix := range p.allowed {
		if prefix.IsSingleIP() {
			r.hosts.set(prefix.Addr(), p)
		} else {
			nets = append(nets, route{prefix, p})
		}
	}
	r.setNetworks(nets)
	for _, prefix := range before {
		if prefix.IsSingleIP() && !slices.Contains(p.allowed, prefix) {
			r.hosts.remove(prefix.Addr(), p)
		}
	}
}

// remove takes back all that p has. Whoever removes is alone.
func (r *routes) remove(p *peer) { r.set(p, nil) }

// networks returns a copy.
func (r *routes) networks() []route {
	if nets := r.nets.Load(); nets != nil {
		return slices.Clone(*nets)
	}
	return nil
}

func (r *routes) setNetworks(nets []route) {
	if old := r.nets.Load(); len(nets) == 0 && (old == nil || len(*old) == 0) {
		return
	}
	slices.SortStableFunc(nets, func(a, b route) int { return cmp.Compare(b.prefix.Bits(), a.prefix.Bits()) })
	r.nets.Store(&nets)
}

// lookup returns whose address a is, or nil.
func (r *routes) lookup(a netip.Addr) *peer {
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

// Owner returns the peer that packets to a are sent to.
func (d *Device) Owner(a netip.Addr) (key.NodePublic, bool) {
	if p := d.routes.lookup(a); p != nil {
		return p.key, true
	}
	return key.NodePublic{}, false
}
