package server

import (
	"reflect"
	"slices"
	"time"

	"ginnel/control"
)

// sentState is what a stream has shown of things that depend on who looks. Which peers it has shown
// needs no list: they are those that the rules of its latest view let it see.
type clientState struct {
	id      int64
	filter  filterSum
	expired bool // the node's key: it has been shown itself and nothing else
}

// first returns the frame that a stream begins with: everything.
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

// selfOnly is what a node is told whose key has expired: that it is so, and what it needs to log in
// again. It is nobody's any more, and the network is none of its business.
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

// filterChunk is the name of the one chunk of packet filters that we send.
const filterChunk = "base"

// delta returns what a step means to one node, nil if nothing.
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

// otherAttributes returns a change of a node that has not changed, if the policy gives it other
// attributes than before.
func (s *step) attributesChange(id int64) *change {
	if reflect.DeepEqual(s.before.rules.attributes(id), s.rules.attributes(id)) {
		return nil
	}
	n := s.node(id)
	return &change{id: id, old: n, now: n}
}

// aroundExpiry is delta for a node whose key has expired, just now or before, or has been given
// time again.
func (s *step) expiryDelta(client *clientState, mine *change, self *node) *control.MapResponse {
	was := client.expired
	switch client.expired = self.expired; {
	case !self.expired:
		return s.fullMap(client, "", time.Time{})
	case was && mine == nil:
		return nil
	case was:
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

// tell adds what a node has to be told of a change of another: it may have come into sight, or
// gone, or others of its routes may be of use.
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

// otherRoutes reports whether another policy, or the node as that has it, makes other routes of a
// node of use.
func (s *step) routesChanged(id int64, c *change) bool {
	return s.before.rules != s.rules && len(c.now.served) > 0 &&
		!slices.Equal(s.before.rules.peer(id, c.old).AllowedIPs, s.rules.peer(id, c.now).AllowedIPs)
}

func isEmpty(r *control.MapResponse) bool {
	return r.Node == nil && r.DERPMap == nil && r.DNSConfig == nil && r.PacketFilters == nil &&
		len(r.PeersChanged)+len(r.PeersRemoved)+len(r.PeersChangedPatch)+len(r.UserProfiles) == 0
}

// compare finds what a node sees of all others after the policy has changed, or the node itself as
// the policy has it: any peer may have appeared or gone.
func (s *step) compareAll(id int64, resp *control.MapResponse) {
	changes := s.changes
	for _, n := range s.nodes {
		for len(changes) > 0 && changes[0].id < n.rec.ID {
			s.appendPeer(id, &changes[0], resp) // it is not there any more
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
