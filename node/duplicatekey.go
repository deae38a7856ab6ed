package node

import (
	"slices"
	"time"

	"ginnel/key"
)

const (
	duplicateEnds   = 3               // so many map streams that end within duplicateWindow are a sign
	duplicateWindow = 2 * time.Minute // the time for which a sign counts
)

// duplicateKey detects another process that uses this node's key, from a copied state directory. A
// server serves one map stream of a node and ends it when another begins, or it serves both and
// sends each what the other process has reported. It has no clock.
type duplicateKey struct {
	ends   []time.Time // of map streams, within duplicateWindow
	own    bool        // the server has sent our own discovery key
	signed time.Time   // the last sign of a duplicate; zero: none
}

// streamEnded takes the end of a map stream whose channel to the server remains.
func (d *duplicateKey) streamEnded(now time.Time) {
	d.ends = slices.DeleteFunc(d.ends, func(t time.Time) bool { return now.Sub(t) > duplicateWindow })
	if d.ends = append(d.ends, now); len(d.ends) >= duplicateEnds {
		d.ends = d.ends[len(d.ends)-duplicateEnds:]
		d.signed = now
	}
}

// shown takes the discovery key that the server sends for this node. A key of another process
// counts only once the server has sent ours, because the server may know one from before.
func (d *duplicateKey) shown(now time.Time, shown, ours key.DiscoPublic) {
	switch {
	case shown == ours:
		d.own = true
	case d.own && !shown.IsZero():
		d.signed = now
	}
}

// told takes a message of a server that has detected the duplicate itself.
func (d *duplicateKey) told(now time.Time) { d.signed = now }

// present reports whether there is a duplicate.
func (d *duplicateKey) present(now time.Time) bool {
	return !d.signed.IsZero() && now.Sub(d.signed) <= duplicateWindow
}
