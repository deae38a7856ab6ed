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
	errManyNodes = errors.New("the network has reached its maximum number of nodes")
)

// admission is a node that is about to be registered.
type admission struct {
	r         *registration
	user      int64
	tags      []string
	ephemeral bool
	takeOver  bool
	authKey   int64 // 0: approved interactively
}

func (a *admission) owner() int64 {
	if len(a.tags) > 0 {
		return taggedUser.ID
	}
	return a.user
}

// admit registers a node: the existing node of the machine, whatever its owner and key were, or a
// node that it takes over, or a new one. A node belongs to its machine. It keeps its ID, addresses
// and name when its owner or its tags change.
func (c *core) admit(t *tx, a *admission) (*node, error) {
	if t.blocked[a.r.machine] != nil {
		return nil, errBlocked
	}
	old := t.nodeOf(a.r.machine, a.r.req.NodeKey, a.owner())
	if h := a.r.req.Hostinfo; h != nil && (hostinfoTooLarge(h) || len(h.RoutableIPs) > maxRoutes) {
		return nil, errHostinfo
	}
	if old == nil && a.takeOver {
		old = c.nodeToTakeOver(t, a)
	}
	var rec nodeRecord
	if old != nil {
		rec = *old.rec
		if rec.Key != a.r.req.NodeKey || rec.Machine != a.r.machine {
			rec.Disco, rec.Endpoints = [32]byte{}, nil // another process or machine had them
		}
	} else if err := c.assignIdentity(t, a, &rec); err != nil {
		return nil, err
	}
	rec.Machine, rec.Key, rec.User = a.r.machine, a.r.req.NodeKey, a.user
	rec.Cap, rec.Tags, rec.AuthKey = a.r.req.Version, a.tags, a.authKey
	rec.Ephemeral = a.ephemeral
	rec.Expiry = c.keyExpiry(t, a.r.req.Expiry, a.tags)
	if a.r.req.Hostinfo != nil {
		t.takeHostinfo(&rec, a.r.req.Hostinfo)
	}
	t.putNode(&rec)
	t.noteContact(t.nodes[rec.ID])
	t.after = append(t.after, func() {
		c.log.Info("node registered", "node", rec.Label, "id", rec.ID, "new", old == nil)
		c.noteReturn(&rec, t.mono)
	})
	return t.nodes[rec.ID], nil
}

// assignIdentity gives a new node its ID, addresses and label.
func (c *core) assignIdentity(t *tx, a *admission, rec *nodeRecord) error {
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
		Label: uniqueLabel(hostname(a.r.req.Hostinfo), t.labelTaken),
	}
	return nil
}

// noteContact restarts the absence of a node that has registered but has no stream yet. Otherwise
// it could be taken over or, if ephemeral, deleted before its stream begins.
func (t *tx) noteContact(n *node) {
	if n.polled.IsZero() {
		return
	}
	live := cloneNode(n)
	live.polled = t.mono
	t.setNode(live)
}

// sameOwner reports whether a node has the same owner as the admission: the same tags or, if
// neither has tags, the same user.
func (a *admission) sameOwner(rec *nodeRecord) bool {
	if len(a.tags) > 0 || len(rec.Tags) > 0 {
		return slices.Equal(a.tags, rec.Tags) // both are sorted
	}
	return a.user == rec.User
}

// nodeToTakeOver returns the offline node with the same owner and label that the admission may take
// over, or nil. The node must have been absent for the grace period. After a start of the server
// all nodes count as just seen.
func (c *core) nodeToTakeOver(t *tx, a *admission) *node {
	h := a.r.req.Hostinfo
	if h == nil {
		return nil
	}
	n := t.nodes[t.byLabel[hostLabel(h.Hostname)]]
	if n == nil || n.online || !a.sameOwner(n.rec) || !t.mono.After(n.polled.Add(c.cfg.offlineGrace())) {
		return nil
	}
	return n
}

// validTag reports whether a tag is "tag:", a letter, and then letters, digits and dashes.
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

// responseTo returns the answer that tells a client the reason of a refusal. It is sent with status
// 200.
func responseTo(err error) control.RegisterResponse {
	return control.RegisterResponse{Error: err.Error()}
}
