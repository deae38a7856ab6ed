package server

import "time"

// alarmOf returns when something happens to a node by itself because it is away, or two are there,
// for so long; the zero time means never.
func (c *core) nodeDeadline(n *node) (at time.Time) {
	if n == nil {
		return at
	}
	sooner := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if n.duplicateKey != nil {
		sooner(n.duplicateKey.until)
	}
	if n.polled.IsZero() {
		return at // connected
	}
	if n.online || n.awaited {
		sooner(n.polled.Add(c.cfg.offlineGrace()))
	}
	if n.rec.Ephemeral {
		sooner(n.polled.Add(c.cfg.ephemeralTimeout()))
	}
	return at
}

// expiryOf returns when the key of a node expires; the zero time means never, or that it has.
func expiryOf(n *node) time.Time {
	if n == nil || n.expired {
		return time.Time{}
	}
	return n.rec.Expiry
}

// nodeDue does what the time has come for. Whatever it is, the node counts as changed, so that its
// alarm is set anew.
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

// putOffline notes that a node has been away for too long.
func (t *tx) markOffline(n *node) {
	rec := *n.rec
	rec.LastSeen = t.now.Add(n.polled.Sub(t.mono)).UTC()
	t.putNode(&rec)
	off := cloneNode(t.nodes[rec.ID])
	off.online, off.polled = false, n.polled
	t.setNode(off)
}

// newLive returns a node that can be changed before it is put into the state.
func cloneNode(n *node) *node {
	return &node{rec: n.rec, online: n.online, polled: n.polled, primary: n.primary, awaited: n.awaited, duplicateKey: n.duplicateKey}
}

// setBack corrects what was thought to have expired by a clock that was wrong.
func (c *core) clockSetBack(at moment) {
	t := &tx{state: c.st, moment: at}
	for _, n := range c.st.nodes {
		if n.expired != n.rec.expiredAt(at.now) {
			t.setNode(cloneNode(n))
		}
	}
	c.committed(t)
}
