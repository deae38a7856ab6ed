package server

import (
	"time"

	"ginnel/control"
)

// sentState is what a stream has shown of things that depend on who looks. Which peers it has shown needs no list: they are
// those that the rules of its latest view let it see.
type sentState struct {
	id     int64
	filter filterSum
}

// first returns the frame that a stream begins with: everything.
func (v *view) first(sent *sentState, domain string, now time.Time) *control.MapResponse {
	self := v.node(sent.id)
	resp := &control.MapResponse{
		Node:        self.peer(),
		DERPMap:     v.derp,
		DNSConfig:   v.dns,
		Domain:      domain,
		Peers:       make([]*control.Node, 0, len(v.nodes)),
		ControlTime: now.UTC(),
	}
	for _, n := range v.nodes {
		if n != self && v.rules.sees(sent.id, n.rec.ID) {
			resp.Peers = append(resp.Peers, n.peer())
		}
	}
	resp.UserProfiles = v.profiles(resp.Peers)
	if u := v.user(self.owner()); u != nil {
		resp.UserProfiles = append(resp.UserProfiles, u.profile())
	}
	sent.filter = v.rules.filterSum(sent.id)
	resp.PacketFilters = map[string]control.Rules{filterChunk: v.rules.filter(sent.id)}
	return resp
}

// filterChunk is the name of the one chunk of packet filters that we send.
const filterChunk = "base"

// delta returns what a step means to one node, nil if nothing.
func (s *step) delta(sent *sentState) *control.MapResponse {
	resp := new(control.MapResponse)
	recompiled := s.before.rules != s.rules
	if recompiled {
		s.compare(sent.id, resp)
		if sum := s.rules.filterSum(sent.id); sum != sent.filter {
			sent.filter = sum
			resp.PacketFilters = map[string]control.Rules{filterChunk: s.rules.filter(sent.id)}
		}
	} else {
		for i := range s.changes {
			if c := &s.changes[i]; c.id != sent.id && s.rules.sees(sent.id, c.id) {
				c.appendTo(resp)
			}
		}
	}
	for i := range s.changes {
		if c := &s.changes[i]; c.id == sent.id && c.now != nil {
			resp.Node = c.now.peer()
			resp.UserProfiles = s.profiles([]*control.Node{resp.Node})
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

func isEmpty(r *control.MapResponse) bool {
	return r.Node == nil && r.DERPMap == nil && r.DNSConfig == nil && r.PacketFilters == nil &&
		len(r.PeersChanged)+len(r.PeersRemoved)+len(r.PeersChangedPatch)+len(r.UserProfiles) == 0
}

// compare finds what a node sees of the others after the rules have changed: any peer may have appeared or gone.
func (s *step) compare(id int64, resp *control.MapResponse) {
	changes := s.changes
	at := func(other int64) *change {
		for len(changes) > 0 && changes[0].id < other {
			changes = changes[1:]
		}
		if len(changes) > 0 && changes[0].id == other {
			return &changes[0]
		}
		return nil
	}
	old, now := s.before.nodes, s.nodes
	for len(old) > 0 || len(now) > 0 {
		var was, is *node
		if len(old) > 0 && (len(now) == 0 || old[0].rec.ID <= now[0].rec.ID) {
			was = old[0]
		}
		if len(now) > 0 && (len(old) == 0 || now[0].rec.ID <= old[0].rec.ID) {
			is = now[0]
		}
		if was != nil {
			old = old[1:]
		}
		if is != nil {
			now = now[1:]
		}
		s.comparePeer(id, was, is, at, resp)
	}
}

func (s *step) comparePeer(id int64, was, is *node, at func(int64) *change, resp *control.MapResponse) {
	other := cmpID(was, is)
	if other == id {
		return
	}
	saw := was != nil && s.before.rules.sees(id, other)
	sees := is != nil && s.rules.sees(id, other)
	switch c := at(other); {
	case saw && !sees:
		resp.PeersRemoved = append(resp.PeersRemoved, other)
	case sees && !saw:
		resp.PeersChanged = append(resp.PeersChanged, is.peer())
	case sees && c != nil:
		c.appendTo(resp)
	}
}

// cmpID returns the number of whichever is there.
func cmpID(a, b *node) int64 {
	if a != nil {
		return a.rec.ID
	}
	return b.rec.ID
}
