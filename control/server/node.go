package server

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"ginnel/control"
)

// node is the current state of a node: its record, what is derived from the record and from other
// nodes, and whether the node is connected. It is never modified.
type node struct {
	rec          *nodeRecord
	online       bool
	expired      bool
	polled       time.Time      // when its latest stream ended or the server started; zero while it has a stream
	served       []netip.Prefix // routes that are advertised and approved
	primary      []netip.Prefix // the subset of served that it is elected for
	name         string         // domain name with a trailing dot
	awaited      bool           // elected for a subnet before the server restarted, and expected to reconnect
	duplicateKey *duplicateKey  // nil: no other process is known to use its key

	once sync.Once
	wire *control.Node // see peer
}

// usable reports whether the node can route traffic for others.
func (n *node) usable() bool { return n.online && !n.expired }

// tagged reports whether the node is owned by its tags instead of a user.
func (n *node) tagged() bool { return len(n.rec.Tags) > 0 }

// owner returns the ID of the user that the node is shown with.
func (n *node) owner() int64 {
	if n.tagged() {
		return taggedUser.ID
	}
	return n.rec.User
}

func (rec *nodeRecord) addrs() []netip.Addr {
	var list []netip.Addr
	for _, a := range []netip.Addr{rec.V4, rec.V6} {
		if a.IsValid() {
			list = append(list, a)
		}
	}
	return list
}

func (rec *nodeRecord) home() int {
	if rec.Hostinfo == nil || rec.Hostinfo.NetInfo == nil {
		return 0
	}
	return rec.Hostinfo.NetInfo.PreferredDERP
}

func (rec *nodeRecord) expiredAt(now time.Time) bool {
	return !rec.Expiry.IsZero() && !now.Before(rec.Expiry)
}

// exitRoutes are the routes of an exit node. One without the other has no effect (section 8).
var exitRoutes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// exitNode reports whether both exit routes of the node are approved.
func (n *node) exitNode() bool {
	return slices.Contains(n.served, exitRoutes[0]) && slices.Contains(n.served, exitRoutes[1])
}

// peer returns the node as a viewer without restrictions sees it. The result must not be modified.
func (n *node) peer() *control.Node {
	n.once.Do(n.render)
	return n.wire
}

func (n *node) render() {
	rec, online := n.rec, n.online
	v := &control.Node{
		ID:                rec.ID,
		StableID:          strconv.FormatInt(rec.ID, 10),
		Name:              n.name,
		User:              n.owner(),
		Key:               rec.Key,
		KeyExpiry:         rec.Expiry,
		Machine:           rec.Machine,
		DiscoKey:          rec.Disco,
		Endpoints:         rec.Endpoints,
		HomeDERP:          rec.home(),
		Hostinfo:          shownHostinfo(rec.Hostinfo),
		Created:           rec.Created,
		Cap:               rec.Cap,
		Tags:              rec.Tags,
		PrimaryRoutes:     n.primary,
		Online:            &online,
		MachineAuthorized: true,
		Expired:           n.expired,
	}
	for _, a := range rec.addrs() {
		v.Addresses = append(v.Addresses, netip.PrefixFrom(a, a.BitLen()))
	}
	v.AllowedIPs = slices.Concat(v.Addresses, n.primary)
	if n.exitNode() {
		v.AllowedIPs = append(v.AllowedIPs, exitRoutes...)
	}
	if !online {
		v.LastSeen = rec.LastSeen
	}
	n.wire = v
}

// shownHostinfo returns the part of a Hostinfo that other nodes need.
func shownHostinfo(h *control.Hostinfo) *control.Hostinfo {
	if h == nil {
		return nil
	}
	return &control.Hostinfo{
		OS: h.OS, Hostname: h.Hostname, IPNVersion: h.IPNVersion, App: h.App, ShieldsUp: h.ShieldsUp,
		RoutableIPs: h.RoutableIPs, Services: h.Services, SSHHostKeys: h.SSHHostKeys, Location: h.Location,
	}
}

// diffNodes returns how a node differs for others: as a patch, or whole if a patch cannot express
// the difference. Both are zero if there is no difference.
func diffNodes(before, after *node) (patch *control.PeerChange, whole bool) {
	if before == after {
		return nil, false
	}
	old, now := before.peer(), after.peer()
	if !sameUnpatchable(old, now) {
		return nil, true
	}
	c := &control.PeerChange{NodeID: now.ID}
	if old.HomeDERP != now.HomeDERP {
		if now.HomeDERP == 0 {
			return nil, true // in a patch 0 means that the home relay did not change
		}
		c.DERPRegion = now.HomeDERP
	}
	if old.Cap != now.Cap {
		c.Cap = now.Cap
	}
	if !slices.Equal(old.Endpoints, now.Endpoints) {
		c.Endpoints = list(now.Endpoints) // not nil, which means that they did not change
	}
	if old.Key != now.Key {
		c.Key = &now.Key
	}
	if old.DiscoKey != now.DiscoKey {
		c.DiscoKey = &now.DiscoKey
	}
	if *old.Online != *now.Online {
		c.Online = now.Online
		if !*now.Online {
			c.LastSeen = &now.LastSeen
		}
	}
	if !old.KeyExpiry.Equal(now.KeyExpiry) {
		c.KeyExpiry = &now.KeyExpiry
	}
	if reflect.DeepEqual(*c, control.PeerChange{NodeID: now.ID}) {
		return nil, false
	}
	return c, false
}

// sameForViewers compares what only some viewers are sent: the duplicate key, which only the node
// itself is told of, and routes that the policy steers some viewers to.
func (n *node) sameForViewers(other *node) bool {
	return n.duplicateKey == other.duplicateKey && slices.Equal(n.served, other.served)
}

// sameUnpatchable compares the fields that a patch cannot carry.
func sameUnpatchable(a, b *control.Node) bool {
	return string(unpatchable(a)) == string(unpatchable(b))
}

func unpatchable(n *control.Node) []byte {
	rest := *n
	rest.HomeDERP, rest.Cap, rest.Endpoints = 0, 0, nil
	rest.Key, rest.DiscoKey = [32]byte{}, [32]byte{}
	rest.Online, rest.LastSeen, rest.KeyExpiry = nil, time.Time{}, time.Time{}
	return mustJSON(&rest)
}

func byID(n *node, id int64) int { return cmp.Compare(n.rec.ID, id) }
