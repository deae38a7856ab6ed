package server

import (
	"maps"
	"slices"

	"ginnel/control"
)

// publish makes the step from the latest snapshot to the current state.
func (c *core) publish(at moment) {
	before := c.latest.Load()
	defer closeAll(c.pending.ended)
	if c.pending.rulesChanged {
		c.reapplyPolicy(at)
	}
	redundant := c.electRouters(before, at)
	ids := slices.Sorted(maps.Keys(c.pending.ids))
	next := &snapshot{
		users: before.snapshot.users, rules: before.rules, derp: before.derp, dns: before.dns, redundant: redundant,
	}
	if c.pending.usersChanged {
		next.users = maps.Clone(c.st.users)
	}
	if c.pending.derp != nil {
		next.derp = c.pending.derp
	}
	if c.pending.dns != nil {
		next.dns = c.pending.dns
	}
	next.nodes = before.with(ids, func(id int64) *node { return c.st.nodes[id] })
	switch {
	case c.pending.rulesChanged && (c.st.policy != nil || !before.rules.allowsAll()):
		next.rules = c.st.compile(before.rules.generation + 1)
	case c.st.policy != nil && c.affectsPolicy(before.snapshot, ids):
		next.rules = c.st.compile(before.rules.generation)
	}
	s := newStep(before, next, ids)
	if c.pending.usersChanged {
		s.compareUsers()
	}
	c.pending = pending{ids: make(map[int64]bool), primaries: c.pending.primaries, published: at.mono}
	if s.empty() {
		return
	}
	c.metrics.steps.Inc()
	c.latest.Store(s)
	before.link(s)
	c.revoke(s)
}

func closeAll(ended []*stream) {
	for _, s := range ended {
		close(s.endc)
	}
}

// revoke reports the node keys that the step made invalid.
func (c *core) revoke(s *step) {
	if c.cfg.Revoked == nil {
		return
	}
	for i := range s.changes {
		old, now := s.changes[i].old, s.changes[i].now
		if old != nil && (now == nil || now.rec.Key != old.rec.Key || now.expired && !old.expired) {
			c.cfg.Revoked(old.rec.Key)
		}
	}
}

// reapplyPolicy updates the served routes of all nodes after a change of the policy.
func (c *core) reapplyPolicy(at moment) {
	t := &tx{state: c.st, moment: at}
	for _, n := range c.st.nodes {
		if !slices.Equal(n.served, c.st.servedBy(n.rec)) {
			t.setNode(cloneNode(n))
		}
	}
	c.committed(t)
}

// affectsPolicy reports whether the policy has to be compiled anew because of changed nodes.
func (c *core) affectsPolicy(before *snapshot, ids []int64) bool {
	for _, id := range ids {
		old, now := before.node(id), c.st.nodes[id]
		switch {
		case old == nil && now == nil:
		case old == nil || now == nil, !samePolicyNode(c.st.policyNode(old), c.st.policyNode(now)):
			return true
		}
	}
	return false
}

// electRouters repeats the election of routers if a changed node is or was one. It returns the
// redundant routers.
func (c *core) electRouters(before *step, at moment) map[int64]bool {
	concerned := false
	for id := range c.pending.ids {
		old, n := before.node(id), c.st.nodes[id]
		concerned = concerned || old != nil && len(old.served) > 0 || n != nil && len(n.served) > 0
	}
	if !concerned {
		return before.redundant
	}
	nodes := slices.SortedFunc(maps.Values(c.st.nodes), func(a, b *node) int { return byID(a, b.rec.ID) })
	c.pending.primaries = elect(nodes, c.pending.primaries)
	t := &tx{state: c.st, moment: at}
	for _, n := range nodes {
		if p := c.pending.primaries.of(n); !slices.Equal(p, n.primary) {
			live := cloneNode(n)
			live.primary = p
			t.setNode(live)
			c.timers.elections.set(n.rec.ID, at.mono)
		}
	}
	c.committed(t)
	return redundant(nodes)
}

// setDERPMap changes the relay map that nodes are sent.
func (c *core) setDERPMap(m *control.DERPMap) func(t *tx) error {
	return func(t *tx) error {
		t.after = append(t.after, func() { c.pending.derp = m })
		return nil
	}
}

// setDNS changes the DNS settings that nodes are sent.
func (c *core) setDNS(d *control.DNSConfig) func(t *tx) error {
	return func(t *tx) error {
		t.after = append(t.after, func() { c.pending.dns = d })
		return nil
	}
}
