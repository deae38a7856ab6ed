package server

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"ginnel/internal/key"
)

const (
	// returnTime is how soon a deleted node comes back that nobody has asked to.
	returnTime   = 10 * time.Minute
	maxDeletions = 1000 // that are remembered; of more, the oldest is forgotten
	maxBlocked   = 10_000
)

// returnRule says whether the machine of a deleted node may come back.
type returnRule int

const (
	returnAllowed returnRule = iota
	returnBlocked
)

// deletion is a node that an administrator has deleted.
type deletion struct {
	name string
	at   time.Time // by the clock that only goes on
}

// noteDeletion remembers a deletion for a while.
func (c *core) noteDeletion(rec *nodeRecord, now time.Time) {
	maps.DeleteFunc(c.st.deleted, func(_ key.MachinePublic, d deletion) bool { return now.Sub(d.at) > returnTime })
	if len(c.st.deleted) >= maxDeletions {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(c.st.deleted)), func(a, b key.MachinePublic) int {
			return c.st.deleted[a].at.Compare(c.st.deleted[b].at)
		})
		delete(c.st.deleted, oldest)
	}
	c.st.deleted[rec.Machine] = deletion{rec.Label, now}
}

// noteReturn says that a node which was deleted is there again, because whoever deleted it may
// think that it is not.
func (c *core) noteReturn(rec *nodeRecord, now time.Time) {
	d, ok := c.st.deleted[rec.Machine]
	if !ok {
		return
	}
	delete(c.st.deleted, rec.Machine)
	if now.Sub(d.at) > returnTime {
		return
	}
	c.log.Warn("deleted node has come back; delete it with --block to keep its machine out",
		"node", rec.Label, "id", rec.ID, "was", d.name, "auth_key", rec.AuthKey, "after", now.Sub(d.at).Round(time.Second))
}

// block keeps the machine of a node out.
func (t *tx) block(rec *nodeRecord) error {
	if len(t.blocked) >= maxBlocked {
		return conflict("%d machines are blocked: unblock some", len(t.blocked))
	}
	r := &blockRecord{Machine: rec.Machine, Node: rec.Label, Created: t.now.UTC()}
	set(t, t.blocked, r.Machine, r)
	t.store(r)
	return nil
}

// Blocked is a machine that is kept out.
type Blocked struct {
	MachineKey key.MachinePublic `json:"machine_key"`
	Node       string            `json:"node"` // the name of its node, when that was deleted
	Created    time.Time         `json:"created"`
}

func (s *Server) listBlocked(ctx context.Context) (all Page[Blocked], err error) {
	err = s.core.change(ctx, func(t *tx) error {
		all.Items = []Blocked{}
		for _, r := range t.blocked {
			all.Items = append(all.Items, Blocked{r.Machine, r.Node, r.Created})
		}
		return nil
	})
	slices.SortFunc(all.Items, func(a, b Blocked) int { return strings.Compare(a.MachineKey.String(), b.MachineKey.String()) })
	return all, err
}

// unblock lets a machine in again: that with the key, or all whose nodes had the name.
func (s *Server) unblock(ctx context.Context, name string) error {
	return s.core.change(ctx, func(t *tx) error {
		found := false
		for m, r := range t.blocked {
			if m.String() == name || r.Node == name {
				found = true
				unset(t, t.blocked, m)
				t.erase(r)
			}
		}
		if !found {
			return notFound("no machine %q is blocked", name)
		}
		return nil
	})
}
