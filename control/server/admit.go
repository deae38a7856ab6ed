package server

import (
	"errors"
	"slices"
	"strings"

	"ginnel/control"
)

const maxTags = 32

var (
	errHostinfo  = errors.New("the host information is too large")
	errManyNodes = errors.New("the network has as many nodes as it may have")
)

// entrant is a node about to be let in.
type admission struct {
	r         *registration
	user      int64
	tags      []string
	ephemeral bool
	takeOver  bool
	authKey   int64 // 0: approved by hand
}

func (e *admission) owner() int64 {
	if len(e.tags) > 0 {
		return taggedUser.ID
	}
	return e.user
}

// admit registers a node: the machine's own, whoever owned it and whatever key it had, one whose
// place it takes, or a new one. A node is its machine: it stays itself, with its address and name,
// when its owner or its tags become others.
func (c *core) admit(t *tx, e *admission) (*node, error) {
	if t.blocked[e.r.machine] != nil {
		return nil, errBlocked
	}
	old := t.nodeOf(e.r.machine, e.r.req.NodeKey, e.owner())
	if h := e.r.req.Hostinfo; h != nil && (hostinfoTooLarge(h) || len(h.RoutableIPs) > maxRoutes) {
		return nil, errHostinfo
	}
	if old == nil && e.takeOver {
		old = c.nodeToTakeOver(t, e)
	}
	var rec nodeRecord
	if old != nil {
		rec = *old.rec
		if rec.Key != e.r.req.NodeKey || rec.Machine != e.r.machine {
			rec.Disco, rec.Endpoints = [32]byte{}, nil // of another run, or another machine
		}
	} else if err := c.assignIdentity(t, e, &rec); err != nil {
		return nil, err
	}
	rec.Machine, rec.Key, rec.User = e.r.machine, e.r.req.NodeKey, e.user
	rec.Cap, rec.Tags, rec.AuthKey = e.r.req.Version, e.tags, e.authKey
	rec.Ephemeral = e.ephemeral
	rec.Expiry = c.keyExpiry(t, e.r.req.Expiry, e.tags)
	if e.r.req.Hostinfo != nil {
		t.takeHostinfo(&rec, e.r.req.Hostinfo)
	}
	t.putNode(&rec)
	t.noteContact(t.nodes[rec.ID])
	t.after = append(t.after, func() {
		c.log.Info("node registered", "node", rec.Label, "id", rec.ID, "new", old == nil)
		c.noteReturn(&rec, t.mono)
	})
	return t.nodes[rec.ID], nil
}

// settleIn gives a new node what is its own for ever: a number, addresses and a name.
func (c *core) assignIdentity(t *tx, e *admission, rec *nodeRecord) error {
	if len(t.nodes) >= c.cfg.maxNodes() {
		return errManyNodes
	}
	v4, v6, cursor, err := c.plan.next(t.counters.Address, t.addrTaken)
	if err != nil {
		return err
	}
	next := t.counters
	next.Node++
	next.Address = cursor
	t.count(next)
	*rec = nodeRecord{
		ID: next.Node, V4: v4, V6: v6, Created: t.now.UTC(),
		Label: uniqueLabel(hostname(e.r.req.Hostinfo), t.labelTaken),
	}
	return nil
}

// heardOf notes that a node which has no stream yet has registered: its place is not vacant, nor is
// it to be removed.
func (t *tx) noteContact(n *node) {
	if n.polled.IsZero() {
		return
	}
	live := cloneNode(n)
	live.polled = t.mono
	t.setNode(live)
}

// sameOwner reports whether a node belongs to the entrant's user, or has the entrant's tags. All
// tagged nodes are shown with one user, which says nothing about who they are.
func (e *admission) sameOwner(rec *nodeRecord) bool {
	if len(e.tags) > 0 || len(rec.Tags) > 0 {
		return slices.Equal(e.tags, rec.Tags) // both are sorted
	}
	return e.user == rec.User
}

// vacated returns the node of the same owner and name whose place the entrant may take: it must
// have been away for longer than a reconnect takes, and so must all when the server has just begun.
func (c *core) nodeToTakeOver(t *tx, e *admission) *node {
	h := e.r.req.Hostinfo
	if h == nil {
		return nil
	}
	n := t.nodes[t.byLabel[hostLabel(h.Hostname)]]
	if n == nil || n.online || !e.sameOwner(n.rec) || !t.mono.After(n.polled.Add(c.cfg.offlineGrace())) {
		return nil
	}
	return n
}

// validTag reports whether a tag is well-formed: "tag:", a letter, then letters, digits and dashes.
func validTag(tag string) bool {
	name, ok := strings.CutPrefix(tag, "tag:")
	if !ok || name == "" || len(name) > maxLabel || name[0] == '-' || '0' <= name[0] && name[0] <= '9' {
		return false
	}
	for _, c := range []byte(name) {
		if !isAlphanumeric(c) && c != '-' {
			return false
		}
	}
	return true
}

func sortedTags(tags []string) []string {
	list := slices.Clone(tags)
	slices.Sort(list)
	return slices.Compact(list)
}

// responseTo turns an error of the decision into the answer that clients understand: it comes with
// status 200.
func responseTo(err error) control.RegisterResponse {
	return control.RegisterResponse{Error: err.Error()}
}
