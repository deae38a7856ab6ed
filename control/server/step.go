package server

import (
	"cmp"
	"slices"
	"sync"

	"ginnel/control"
)

// step is the transition from one snapshot of the network to the next. Each stream follows the
// chain of steps at its own pace, so a stream needs no queue. The garbage collector frees the steps
// behind the slowest stream.
type step struct {
	*snapshot                  // after the step
	before       *snapshot     // nil at the first step
	changes      []change      // ordered by id
	usersChanged bool          // users were added, deleted or changed
	changedUsers []*user       // users that existed before and have changed
	serial       uint64        // number of the step
	nextc        chan struct{} // closed when next is set
	next         *step

	shared [2]sharedFrame // uncompressed and compressed
}

// change is what a step did to one node.
type change struct {
	id       int64
	old, now *node               // nil if the node does not exist before or after the step
	patch    *control.PeerChange // set if the difference fits into a patch
	whole    bool                // the difference does not fit, so the whole node has to be sent
}

// sharedFrame is a frame that many streams can send, encoded once.
type sharedFrame struct {
	once  sync.Once
	frame []byte
	err   error
}

func newStep(before *step, after *snapshot, ids []int64) *step {
	s := &step{snapshot: after, nextc: make(chan struct{})}
	if before == nil {
		return s
	}
	s.before, s.serial = before.snapshot, before.serial+1
	for _, id := range ids {
		c := change{id: id, old: s.before.node(id), now: after.node(id)}
		switch {
		case c.old == nil && c.now == nil:
			continue
		case c.old != nil && c.now != nil:
			if c.patch, c.whole = diffNodes(c.old, c.now); c.patch == nil && !c.whole && c.old.sameForViewers(c.now) {
				continue
			}
		}
		s.changes = append(s.changes, c)
	}
	return s
}

// compareUsers sets usersChanged and changedUsers. A user without nodes is not sent to anybody, but
// the next snapshot must contain it.
func (s *step) compareUsers() {
	s.usersChanged = len(s.snapshot.users) != len(s.before.users)
	for id, u := range s.snapshot.users {
		old := s.before.users[id]
		s.usersChanged = s.usersChanged || old != u
		if old != nil && old != u {
			s.changedUsers = append(s.changedUsers, u)
		}
	}
}

// empty reports whether the two snapshots are equal.
func (s *step) empty() bool {
	b := s.before
	return len(s.changes) == 0 && !s.usersChanged && b != nil && b.rules == s.rules && b.derp == s.derp && b.dns == s.dns
}

// link appends the next step to the chain and wakes the streams.
func (s *step) link(next *step) {
	s.next = next
	close(s.nextc)
}

// frame returns the frame that takes a client from the previous snapshot to this one. It is empty
// if the step does not concern the client's node.
func (s *step) frame(client *clientState, compress string) ([]byte, error) {
	if s.isShared(client) {
		return s.sharedFrame(compress)
	}
	resp := s.delta(client)
	if resp == nil {
		return nil, nil
	}
	return control.AppendFrame(nil, resp, compress)
}

// isShared reports whether the client can be sent the shared frame. Its own node must not be among
// the changes, and its packet filter and the policy rules must be the same. It must see every
// changed node, with all its routes, both before and after the step.
func (s *step) isShared(client *clientState) bool {
	if client.expired || s.changeOf(client.id) != nil || s.before.rules.generation != s.rules.generation {
		return false
	}
	if s.rules.allowsAll() && s.before.rules.allowsAll() {
		return true
	}
	if s.before.rules != s.rules && s.rules.filterSum(client.id) != client.filter {
		return false
	}
	for i := range s.changes {
		c := &s.changes[i]
		if c.old != nil && !s.before.rules.sees(client.id, c.id) || c.now != nil && !s.rules.sees(client.id, c.id) {
			return false
		}
		if c.now != nil && (c.old == nil || c.whole) && !s.rules.usesAll(client.id, c.now) {
			return false
		}
	}
	return true
}

// changeOf returns the change of a node, or nil.
func (s *step) changeOf(id int64) *change {
	if i, ok := slices.BinarySearchFunc(s.changes, id, changeByID); ok {
		return &s.changes[i]
	}
	return nil
}

func changeByID(c change, id int64) int { return cmp.Compare(c.id, id) }

func (s *step) sharedFrame(compress string) ([]byte, error) {
	f := &s.shared[0]
	if compress == control.CompressZstd {
		f = &s.shared[1]
	}
	f.once.Do(func() {
		resp := new(control.MapResponse)
		for i := range s.changes {
			s.changes[i].appendTo(resp)
		}
		s.finish(resp)
		if !isEmpty(resp) {
			f.frame, f.err = control.AppendFrame(nil, resp, compress)
		}
	})
	return f.frame, f.err
}

// appendTo adds the change for a client that sees the node, with all its routes, before and after.
func (c *change) appendTo(resp *control.MapResponse) {
	switch {
	case c.now == nil:
		resp.PeersRemoved = append(resp.PeersRemoved, c.id)
	case c.old == nil || c.whole:
		resp.PeersChanged = append(resp.PeersChanged, c.now.peer())
	case c.patch != nil:
		resp.PeersChangedPatch = append(resp.PeersChangedPatch, c.patch)
	}
}

// finish adds what is the same for all clients, and the owners of the nodes in resp.
func (s *step) finish(resp *control.MapResponse) {
	if s.before.derp != s.derp {
		resp.DERPMap = s.derp
	}
	if s.before.dns != s.dns {
		resp.DNSConfig = s.dns
	}
	resp.UserProfiles = s.profiles(resp.PeersChanged)
	for _, u := range s.changedUsers {
		resp.UserProfiles = append(resp.UserProfiles, u.profile())
	}
}
