package server

import (
	"cmp"
	"slices"
	"sync"

	"ginnel/control"
)

// step is the way from one view of the network to the next. Streams follow a chain of them, each at
// its pace: a stream has no queue, and the chain behind the slowest is collected as garbage.
type step struct {
	*snapshot                  // after the step
	before       *snapshot     // what a stream has shown when it takes the step; nil at the first
	changes      []change      // by number
	usersChanged bool          // users have come, gone or changed
	changedUsers []*user       // those who have changed
	serial       uint64        // counts steps
	nextc        chan struct{} // closed when next is set
	next         *step

	shared [2]sharedFrame // plain and compressed
}

// change is what a step did to one node.
type change struct {
	id       int64
	old, now *node               // nil: not there
	patch    *control.PeerChange // if that is all there is to say
	whole    bool                // if it is not
}

// sharedFrame is a frame that is the same for every stream that may see all changes, encoded once.
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

// compareUsers finds users who have changed, and notes whether there are others than before. Nobody
// needs to be told of a user without nodes, but later views have to know of all.
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

// empty reports whether there is nothing to tell anybody.
func (s *step) empty() bool {
	b := s.before
	return len(s.changes) == 0 && !s.usersChanged && b != nil && b.rules == s.rules && b.derp == s.derp && b.dns == s.dns
}

// follow links the next step to s and wakes the streams.
func (s *step) link(next *step) {
	s.next = next
	close(s.nextc)
}

// frame returns what the stream of a node has to write to take the step; nothing if the step does
// not concern it.
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

// plain reports whether the step is for this node the same as for all others: it is not about the
// node itself, nobody has to be compared anew, the node lets in whom it did, it sees all that has
// changed, before and after, and all routes of that.
func (s *step) isShared(client *clientState) bool {
	if client.expired || s.changeOf(client.id) != nil || s.before.rules.generation != s.rules.generation {
		return false
	}
	if s.rules.allowAll() && s.before.rules.allowAll() {
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

// mine returns what the step did to a node, nil if nothing.
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

// appendTo adds the change for one who saw the node before, if it was there, and sees it now, if it
// is.
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

// finish adds what does not depend on who looks, and the owners of the nodes in resp.
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
