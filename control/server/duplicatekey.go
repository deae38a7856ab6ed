package server

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"ginnel/control"
	"ginnel/internal/key"
)

const (
	// contestLife is how long a node counts as contested after its stream has last changed hands.
	duplicateKeyLife = 5 * time.Minute
	// contestHold is how long the stream of a contested node is left alone: all others are told of
	// each change of hands.
	takeoverInterval = 30 * time.Second
)

// holder is a process that has, or had, the stream of a node. Each makes a disco key when it
// starts: if one is back after another was there, both run, as with a state directory that was
// copied. A process that is started anew, or that roams, does not look like that.
type process struct {
	disco  key.DiscoPublic
	remote string
}

// contest says that two processes use the key of a node.
type duplicateKey struct {
	until     time.Time
	otherHost string // where the process is that does not have the stream
}

// maxPast is how many processes that had a stream are remembered: as many copies of one state are
// noticed.
const maxEarlier = 8

// takeFrom has a stream follow the one before it, and reports whether that shows that processes
// take it from each other.
func (s *stream) takeOverFrom(old *stream) (contested bool) {
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

// turn returns the stream that has to be waited for before s can begin, and how long at most; nil
// if it can now.
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

// awaitTurn waits for the end of a stream, or for some time, and reports whether whoever waits is
// still there.
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

// others reports whether an update comes from the process that does not have the stream of a
// contested node; nobody is told what it says.
func (c *core) fromOtherProcess(n *node, disco key.DiscoPublic) bool {
	s := c.streams[n.rec.ID]
	return n.duplicateKey != nil && s != nil && s.process.disco != disco
}

// contend notes that two processes take the stream of a node from each other.
func (c *core) noteDuplicateKey(t *tx, n *node, s *stream) {
	if n.duplicateKey == nil {
		node, one, other := n.rec.Label, s.process.remote, s.earlier[0].remote
		t.after = append(t.after, func() {
			c.log.Warn("two processes use the key of one node", "node", node, "remote", one, "other", other)
		})
	}
	n.duplicateKey = &duplicateKey{until: t.mono.Add(duplicateKeyLife), otherHost: hostOnly(s.earlier[0].remote)}
}

// endContest lets a node be one process's again. Its name has not followed its host's meanwhile.
func (t *tx) endDuplicateKey(n *node) {
	rec := *n.rec
	if name := hostname(rec.Hostinfo); !rec.Given && name != "" && !labelFits(rec.Label, name) {
		rec.Label = uniqueLabel(name, func(l string) bool { return l != rec.Label && t.labelTaken(l) })
		t.putNode(&rec)
	}
	live := cloneNode(t.nodes[rec.ID])
	live.duplicateKey = nil
	t.setNode(live)
}

// labelFits reports whether a label is that of a host, or that with a number.
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

// displayVersion is the capability version of the first clients that know of display messages
// (section 5.6).
const displayVersion = 117

// appendHealth adds what a node is told is wrong with it, which takes back what was said before.
func (n *node) appendHealth(resp *control.MapResponse) {
	text := ""
	if n.duplicateKey != nil {
		text = fmt.Sprintf("another process, at %s, uses the key of this node, and each takes the network from the other: "+
			"a copy of a state directory must not run beside the original; give one of them a state of its own", n.duplicateKey.otherHost)
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
