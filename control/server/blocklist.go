package server

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"ginnel/key"
)

const (
	// The return of a deleted node is logged if it happens within returnTime.
	returnTime   = 10 * time.Minute
	maxDeletions = 1000 // remembered; beyond that the oldest is forgotten
	maxBlocked   = 10_000
)

// returnRule says whether the machine of a deleted node may register again.
type returnRule int

const (
	returnAllowed returnRule = iota
	returnBlocked
)

// deletion is a node that an administrator has deleted.
type deletion struct {
	name string
	at   time.Time // monotonic clock
}

// noteDeletion remembers a deletion for noteReturn.
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

// noteReturn logs that a deleted node has registered again, which the administrator may not expect.
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

// block stops the machine of a node from registering.
func (t *tx) block(rec *nodeRecord) error {
	if len(t.blocked) >= maxBlocked {
		return conflict("the limit of %d blocked machines is reached: unblock some", len(t.blocked))
	}
	r := &blockRecord{Machine: rec.Machine, Node: rec.Label, Created: t.now.UTC()}
	set(t, t.blocked, r.Machine, r)
	t.store(r)
	return nil
}

// Blocked is a machine that may not register.
type Blocked struct {
	MachineKey key.MachinePublic `json:"machine_key"`
	Node       string            `json:"node"` // label of its node when that was deleted
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
	slices.SortFunc(all.Items, func(a, b Blocked) int {
		return strings.Compare(a.MachineKey.String(), b.MachineKey.String())
	})
	return all, err
}

// unblock allows machines to register again: the one with the machine key name, or all whose nodes
// had the label name.
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
