package server

import (
	"reflect"
	"slices"
	"time"

	"ginnel/control"
)

// clientState is what the client of a stream has been sent, as far as it depends on the viewer. It
// does not list the peers: the client has exactly those that the rules of its latest snapshot show
// it.
type clientState struct {
	id      int64
	filter  filterSum // of the packet filter
	expired bool      // the node's key has expired, so the client was sent its own node only
}

// fullMap returns the whole map, which is the first response of a stream.
func (v *snapshot) fullMap(client *clientState, domain string, now time.Time) *control.MapResponse {
	self := v.node(client.id)
	if client.expired = self.expired; client.expired {
		return v.expiredMap(self, domain, now)
	}
	resp := &control.MapResponse{
		Node:        v.rules.self(self),
		DERPMap:     v.derp,
		DNSConfig:   v.dns,
		Domain:      domain,
		Peers:       make([]*control.Node, 0, len(v.nodes)),
		ControlTime: now.UTC(),
	}
	for _, n := range v.nodes {
		if n != self && v.rules.sees(client.id, n.rec.ID) {
			resp.Peers = append(resp.Peers, v.rules.peer(client.id, n))
		}
	}
	resp.UserProfiles = v.profiles(resp.Peers)
	if u := v.user(self.owner()); u != nil {
		resp.UserProfiles = append(resp.UserProfiles, u.profile())
	}
	if self.duplicateKey != nil {
		self.appendHealth(resp)
	}
	client.filter = v.rules.filterSum(client.id)
	resp.PacketFilters = map[string]control.Rules{filterChunk: v.rules.filter(client.id)}
	return resp
}

// expiredMap returns the map of a node whose key has expired. It contains only what the node needs
// in order to log in again: no peers and an empty packet filter.
func (v *snapshot) expiredMap(self *node, domain string, now time.Time) *control.MapResponse {
	resp := &control.MapResponse{
		Node: self.peer(), DERPMap: v.derp, Domain: domain, ControlTime: now.UTC(),
		Peers:         []*control.Node{},
		PacketFilters: map[string]control.Rules{filterChunk: {}},
	}
	if u := v.user(self.owner()); u != nil {
		resp.UserProfiles = []control.UserProfile{u.profile()}
	}
	return resp
}

// filterChunk is the name of the only packet filter chunk that this server sends.
const filterChunk = "base"

// delta returns what the step changes for one client, or nil.
func (s *step) delta(client *clientState) *control.MapResponse {
	mine := s.changeOf(client.id)
	if self := s.node(client.id); client.expired || self.expired {
		return s.expiryDelta(client, mine, self)
	}
	resp := new(control.MapResponse)
	if mine != nil && s.before.rules != s.rules || s.before.rules.generation != s.rules.generation {
		s.compareAll(client.id, resp)
	} else {
		for i := range s.changes {
			if c := &s.changes[i]; c != mine {
				s.appendPeer(client.id, c, resp)
			}
		}
	}
	if sum := s.rules.filterSum(client.id); s.before.rules != s.rules && sum != client.filter {
		client.filter = sum
		resp.PacketFilters = map[string]control.Rules{filterChunk: s.rules.filter(client.id)}
	}
	if mine == nil && s.before.rules.generation != s.rules.generation {
		mine = s.attributesChange(client.id)
	}
	if mine != nil && mine.now != nil {
		resp.Node = s.rules.self(mine.now)
		resp.UserProfiles = s.profiles([]*control.Node{resp.Node})
		if mine.old == nil || mine.old.duplicateKey != mine.now.duplicateKey {
			mine.now.appendHealth(resp)
		}
	}
	own := resp.UserProfiles
	s.finish(resp)
	resp.UserProfiles = append(resp.UserProfiles, own...)
	if isEmpty(resp) {
		return nil
	}
	return resp
}

// attributesChange returns a change for a node that did not change itself, if the policy now gives
// it other attributes.
func (s *step) attributesChange(id int64) *change {
	if reflect.DeepEqual(s.before.rules.attributes(id), s.rules.attributes(id)) {
		return nil
	}
	n := s.node(id)
	return &change{id: id, old: n, now: n}
}

// expiryDelta is delta for a node whose key has expired, at this step or earlier, or is valid
// again.
func (s *step) expiryDelta(client *clientState, mine *change, self *node) *control.MapResponse {
	wasExpired := client.expired
	switch client.expired = self.expired; {
	case !self.expired:
		return s.fullMap(client, "", time.Time{})
	case wasExpired && mine == nil:
		return nil
	case wasExpired:
		return &control.MapResponse{Node: self.peer()}
	}
	resp := &control.MapResponse{Node: self.peer(), PacketFilters: map[string]control.Rules{filterChunk: {}}}
	for _, n := range s.before.nodes {
		if n.rec.ID != client.id && s.before.rules.sees(client.id, n.rec.ID) {
			resp.PeersRemoved = append(resp.PeersRemoved, n.rec.ID)
		}
	}
	return resp
}

// appendPeer adds the change of another node as one node sees it: the other node may appear,
// disappear or be shown with other routes.
func (s *step) appendPeer(id int64, c *change, resp *control.MapResponse) {
	saw := c.old != nil && s.before.rules.sees(id, c.id)
	sees := c.now != nil && s.rules.sees(id, c.id)
	switch {
	case saw && !sees:
		resp.PeersRemoved = append(resp.PeersRemoved, c.id)
	case sees && (!saw || c.whole || s.routesChanged(id, c)):
		resp.PeersChanged = append(resp.PeersChanged, s.rules.peer(id, c.now))
	case sees:
		c.appendTo(resp)
	}
}

// routesChanged reports whether the other node's AllowedIPs, as this viewer sees them, differ
// between the two rule sets.
func (s *step) routesChanged(id int64, c *change) bool {
	return s.before.rules != s.rules && len(c.now.served) > 0 &&
		!slices.Equal(s.before.rules.peer(id, c.old).AllowedIPs, s.rules.peer(id, c.now).AllowedIPs)
}

func isEmpty(r *control.MapResponse) bool {
	return r.Node == nil && r.DERPMap == nil && r.DNSConfig == nil && r.PacketFilters == nil &&
		len(r.PeersChanged)+len(r.PeersRemoved)+len(r.PeersChangedPatch)+len(r.UserProfiles) == 0
}

// compareAll adds the difference between the two snapshots as one node sees them. It is needed
// after a change of the policy, or of the node's own place in it, because then any peer may appear
// or disappear.
func (s *step) compareAll(id int64, resp *control.MapResponse) {
	changes := s.changes
	for _, n := range s.nodes {
		for len(changes) > 0 && changes[0].id < n.rec.ID {
			s.appendPeer(id, &changes[0], resp) // deleted
			changes = changes[1:]
		}
		c := change{id: n.rec.ID, old: n, now: n}
		if len(changes) > 0 && changes[0].id == n.rec.ID {
			c, changes = changes[0], changes[1:]
		}
		if c.id != id {
			s.appendPeer(id, &c, resp)
		}
	}
	for i := range changes {
		s.appendPeer(id, &changes[i], resp)
	}
}
