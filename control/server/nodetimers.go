package server

import "time"

// nodeDeadline returns when the absence of a node or its duplicate key has consequences; see
// nodeTimeout. The zero time means never.
func (c *core) nodeDeadline(n *node) (at time.Time) {
	if n == nil {
		return at
	}
	earliest := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if n.duplicateKey != nil {
		earliest(n.duplicateKey.until)
	}
	if n.polled.IsZero() {
		return at // connected
	}
	if n.online || n.awaited {
		earliest(n.polled.Add(c.cfg.offlineGrace()))
	}
	if n.rec.Ephemeral {
		earliest(n.polled.Add(c.cfg.ephemeralTimeout()))
	}
	return at
}

// expiryOf returns when the key of a node will expire. The zero time means never, or that it has
// expired already.
func expiryOf(n *node) time.Time {
	if n == nil || n.expired {
		return time.Time{}
	}
	return n.rec.Expiry
}

// nodeTimeout does what is due for a node. It marks the node as changed in every case, so that its
// timers are set again.
func (c *core) nodeTimeout(t *tx, id int64) {
	n := t.nodes[id]
	if n == nil {
		t.changed = append(t.changed, id)
		return
	}
	away := !n.polled.IsZero()
	switch {
	case away && n.rec.Ephemeral && !t.mono.Before(n.polled.Add(c.cfg.ephemeralTimeout())):
		t.after = append(t.after, func() { c.log.Info("ephemeral node removed", "node", n.rec.Label, "id", id) })
		t.deleteNode(id)
	case away && n.online && !t.mono.Before(n.polled.Add(c.cfg.offlineGrace())):
		t.markOffline(n)
	case away && n.awaited && !t.mono.Before(n.polled.Add(c.cfg.offlineGrace())):
		live := cloneNode(n)
		live.awaited = false
		t.setNode(live)
	case n.duplicateKey != nil && !t.mono.Before(n.duplicateKey.until):
		t.endDuplicateKey(n)
	default:
		t.setNode(cloneNode(n))
	}
}

// markOffline makes a node offline that has been absent for longer than the grace period.
func (t *tx) markOffline(n *node) {
	rec := *n.rec
	rec.LastSeen = t.now.Add(n.polled.Sub(t.mono)).UTC()
	t.putNode(&rec)
	off := cloneNode(t.nodes[rec.ID])
	off.online, off.polled = false, n.polled
	t.setNode(off)
}

// cloneNode returns a copy of a node that may be modified until setNode publishes it.
func cloneNode(n *node) *node {
	return &node{
		rec: n.rec, online: n.online, polled: n.polled, primary: n.primary, awaited: n.awaited,
		duplicateKey: n.duplicateKey,
	}
}

// clockSetBack makes keys valid again that had expired only because the wall clock was ahead.
func (c *core) clockSetBack(at moment) {
	t := &tx{state: c.st, moment: at}
	for _, n := range c.st.nodes {
		if n.expired != n.rec.expiredAt(at.now) {
			t.setNode(cloneNode(n))
		}
	}
	c.committed(t)
}
