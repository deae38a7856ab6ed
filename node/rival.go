package node

import (
	"slices"
	"time"

	"ginnel/key"
)

const (
	rivalEnds   = 3               // so many streams that the server has ended in a row of rivalWindow give a rival away
	rivalWindow = 2 * time.Minute // and after so long without a sign of it, it is gone
)

// rival notices another process with this node's key, from a state directory that was copied:
// servers serve one stream of a node and end it when another begins, or serve both and tell each
// what the other says. It has no clock.
type rival struct {
	ends   []time.Time // of streams, by a server that was there for the next one; not older than rivalWindow
	own    bool        // the server has shown our own discovery key
	signed time.Time   // last sign of a rival; zero: none
}

// streamEnded takes the orderly end of a stream on a channel that goes on.
func (r *rival) streamEnded(now time.Time) {
	r.ends = slices.DeleteFunc(r.ends, func(t time.Time) bool { return now.Sub(t) > rivalWindow })
	if r.ends = append(r.ends, now); len(r.ends) >= rivalEnds {
		r.ends = r.ends[len(r.ends)-rivalEnds:]
		r.signed = now
	}
}

// shown takes the discovery key that the server gives this node. Until it has shown ours, another
// is one of before.
func (r *rival) shown(now time.Time, shown, ours key.DiscoPublic) {
	switch {
	case shown == ours:
		r.own = true
	case r.own && !shown.IsZero():
		r.signed = now
	}
}

// told takes the word of a server that has noticed itself.
func (r *rival) told(now time.Time) { r.signed = now }

// present reports whether there is one.
func (r *rival) present(now time.Time) bool {
	return !r.signed.IsZero() && now.Sub(r.signed) <= rivalWindow
}
