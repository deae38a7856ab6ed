package server

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"ginnel/control"
	"ginnel/key"
)

const (
	// duplicateKeyLife is how long a duplicate key is reported after the stream's latest change of
	// process.
	duplicateKeyLife = 5 * time.Minute
	// takeoverInterval is the shortest time that a process keeps the stream of a node with a
	// duplicate key. Every change of process costs a step for all other nodes.
	takeoverInterval = 30 * time.Second
)

// process identifies a client process that has or had the stream of a node. Each process makes a
// disco key when it starts. If a process returns after another one had the stream, both are
// running, for example because a state directory was copied. A restarted process looks different,
// because its disco key is new, and so does a roaming one, because no other process had the stream
// in between.
type process struct {
	disco  key.DiscoPublic
	remote string
}

// duplicateKey records that two processes use the key of one node.
type duplicateKey struct {
	until     time.Time
	otherHost string // address of the process that does not have the stream
}

// maxEarlier limits the remembered processes, and thereby how many copies of one state are
// detected.
const maxEarlier = 8

// takeOverFrom makes s the successor of a stream. It reports whether the process of s had the
// stream before another one, that is, whether the key is a duplicate.
func (s *stream) takeOverFrom(old *stream) (duplicate bool) {
	if s.process.disco.IsZero() || old.process.disco.IsZero() {
		return false
	}
	if s.process.disco == old.process.disco {
		s.earlier = old.earlier
		return false
	}
	s.earlier = append([]process{old.process}, old.earlier...)
	s.earlier = s.earlier[:min(len(s.earlier), maxEarlier)]
	return slices.ContainsFunc(old.earlier, func(p process) bool { return p.disco == s.process.disco })
}

// takeoverDelay returns the stream that s has to wait for, and for how long at most. It returns nil
// if s may begin now.
func (c *core) takeoverDelay(t *tx, n *node, s *stream) (*stream, time.Duration) {
	old := c.streams[n.rec.ID]
	if n.duplicateKey == nil || old == nil || old.process.disco == s.process.disco {
		return nil, 0
	}
	if wait := old.began.Add(takeoverInterval).Sub(t.mono); wait > 0 {
		return old, min(wait, takeoverInterval)
	}
	return nil, 0
}

// awaitTakeover waits until a stream ends or the time is over. It returns false if the request or
// the server ends first.
func (c *core) awaitTakeover(ctx context.Context, before *stream, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-before.endc:
		return true
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-c.stopc:
		return false
	}
}

// fromOtherProcess reports whether an update of a node with a duplicate key comes from the process
// that does not have the stream. Such an update is ignored.
func (c *core) fromOtherProcess(n *node, disco key.DiscoPublic) bool {
	s := c.streams[n.rec.ID]
	return n.duplicateKey != nil && s != nil && s.process.disco != disco
}

// noteDuplicateKey records in n that two processes use its key, and logs the first time.
func (c *core) noteDuplicateKey(t *tx, n *node, s *stream) {
	if n.duplicateKey == nil {
		node, one, other := n.rec.Label, s.process.remote, s.earlier[0].remote
		t.after = append(t.after, func() {
			c.log.Warn("two processes use the key of one node", "node", node, "remote", one, "other", other)
		})
	}
	n.duplicateKey = &duplicateKey{until: t.mono.Add(duplicateKeyLife), otherHost: hostOnly(s.earlier[0].remote)}
}

// endDuplicateKey ends the report of a duplicate key. The label did not follow the host name in the
// meantime, so it is updated now.
func (t *tx) endDuplicateKey(n *node) {
	rec := *n.rec
	if name := hostname(rec.Hostinfo); !rec.Given && name != "" && !labelFits(rec.Label, name) {
		rec.Label = t.labelOf(&rec, name)
		t.putNode(&rec)
	}
	live := cloneNode(t.nodes[rec.ID])
	live.duplicateKey = nil
	t.setNode(live)
}

// labelFits reports whether a label is derived from a host name, with or without a number.
func labelFits(label, host string) bool {
	base := uniqueLabel(host, func(string) bool { return false })
	rest, ok := strings.CutPrefix(label, base)
	return ok && (rest == "" || rest[0] == '-' && strings.Trim(rest[1:], "0123456789") == "")
}

func hostOnly(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// displayVersion is the first capability version whose clients know display messages (section 5.6).
const displayVersion = 117

// appendHealth adds the node's health messages, or withdraws the earlier ones if there is nothing
// to report.
func (n *node) appendHealth(resp *control.MapResponse) {
	text := ""
	if n.duplicateKey != nil {
		text = fmt.Sprintf("another process, at %s, uses this node's key, so each disconnects the other: do not run "+
			"a copy of a state directory beside the original; give one of the two a new state directory",
			n.duplicateKey.otherHost)
	}
	switch {
	case n.rec.Cap < displayVersion && text == "":
		resp.Health = []string{}
	case n.rec.Cap < displayVersion:
		resp.Health = []string{text}
	case text == "":
		resp.DisplayMessages = map[string]*control.DisplayMessage{control.MessageDuplicateKey: nil}
	default:
		resp.DisplayMessages = map[string]*control.DisplayMessage{control.MessageDuplicateKey: {
			Title: "Another process uses this node's key", Text: text, Severity: "high", ImpactsConnectivity: true}}
	}
}
