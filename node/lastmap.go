package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"ginnel/control"
	"ginnel/key"
)

// A node keeps its network map, so that it can start while its coordination server is away. The map
// says when keys expire and whom the policy lets in, and both hold without the server too.

const (
	// lastMapAge is how old a map may be with which a node starts. What the server has changed since,
	// such as a node that was removed, is not known.
	lastMapAge = 24 * time.Hour

	// saveMapEvery is how often a map that changes is saved. A large one is saved so seldom that this
	// takes a hundredth of the time at the most.
	saveMapEvery = time.Minute
	saveMapShare = 100
)

// savedMap is the form in which a map is kept.
type savedMap struct {
	Saved  time.Time            `json:"saved"`
	Server string               `json:"server"` // its URL
	Node   key.NodePublic       `json:"node"`   // whose map it is
	Map    *control.MapResponse `json:"map"`
}

// mapKeeper saves the maps of a membership. Its run goroutine owns it.
type mapKeeper struct {
	cfg     *Control
	unsaved *control.NetMap // newer than what was saved; nil: nothing is
	next    time.Time       // not to be saved before
	tried   bool            // the saved map was looked at
	onLast  bool            // the node has started on a saved map, and the server has not given one yet
}

// note takes the server's latest map, and saves it if it is time to.
func (k *mapKeeper) note(nm *control.NetMap, now time.Time) error {
	k.unsaved, k.onLast = nm, false
	if now.Before(k.next) {
		return nil
	}
	return k.flush(now)
}

// flush saves what is not saved yet. An ephemeral node has no use for a map without its server,
// which forgets it when it leaves.
func (k *mapKeeper) flush(now time.Time) error {
	nm := k.unsaved
	if nm == nil || k.cfg.SaveMap == nil || k.cfg.Ephemeral {
		return nil
	}
	k.unsaved = nil
	b, err := json.Marshal(savedMap{Saved: now, Server: k.cfg.URL, Node: nm.Self.Key, Map: nm.Frame(now)})
	if err == nil {
		err = k.cfg.SaveMap(b)
	}
	k.next = now.Add(max(saveMapEvery, saveMapShare*time.Since(now)))
	if err != nil {
		return fmt.Errorf("keeping the network map: %w", err)
	}
	return nil
}

var errNoLastMap = errors.New("there is none")

// load returns the saved map if the node may start on it, and when it was saved.
func (k *mapKeeper) load(node key.NodePublic, now time.Time) (*control.NetMap, time.Time, error) {
	if k.cfg.LastMap == nil || k.cfg.Ephemeral {
		return nil, time.Time{}, errNoLastMap
	}
	b, err := k.cfg.LastMap()
	if err != nil || len(b) == 0 {
		return nil, time.Time{}, errors.Join(errNoLastMap, err)
	}
	var s savedMap
	if err := json.Unmarshal(b, &s); err != nil || s.Map == nil {
		return nil, time.Time{}, errors.New("it is damaged")
	}
	switch age := now.Sub(s.Saved); {
	case s.Node != node || s.Server != k.cfg.URL:
		return nil, s.Saved, errors.New("it is of another node or server")
	case age < 0 || age > lastMapAge:
		return nil, s.Saved, fmt.Errorf("it is of %s, and may be %v old at the most", s.Saved.UTC().Format(time.RFC3339), lastMapAge)
	}
	var none *control.NetMap
	nm, err := none.Apply(s.Map, s.Saved)
	if err != nil {
		return nil, s.Saved, fmt.Errorf("reading it: %w", err)
	}
	if expired(nm, now) {
		return nil, s.Saved, errKeyExpired
	}
	return nm, s.Saved, nil
}

// startOnLast starts a node on its last map if the server cannot be reached.
func (m *membership) startOnLast(err error) {
	if m.hasJoined() || m.maps.tried || !errors.Is(err, control.ErrUnreachable) {
		return
	}
	m.maps.tried = true
	nm, saved, err := m.maps.load(m.n.key().Public(), time.Now())
	switch {
	case errors.Is(err, errNoLastMap):
		m.n.log.Debug("no last network map", "err", err)
	case err != nil:
		m.n.log.Warn("the last network map is not used", "err", err)
	default:
		m.n.log.Warn("the coordination server is away: starting on the last network map", "saved", saved.UTC())
		m.maps.onLast = true
		m.apply(nm)
	}
}

// keepMap saves a map of the server's.
func (m *membership) keepMap(nm *control.NetMap) {
	if err := m.maps.note(nm, time.Now()); err != nil {
		m.n.log.Warn("starting without the coordination server will not be possible", "err", err)
	}
}

// flushMap saves the last map before the node ends.
func (m *membership) flushMap() {
	if err := m.maps.flush(time.Now()); err != nil {
		m.n.log.Warn("starting without the coordination server will not be possible", "err", err)
	}
}

// honourExpiry applies what time has changed in the map while there is no conversation: peers whose
// keys have expired are left out, and all of them when the node's own has.
func (m *membership) honourExpiry(now time.Time) {
	m.mu.Lock()
	nm, applied := m.netmap, m.applied
	m.mu.Unlock()
	switch {
	case nm == nil:
	case expired(nm, now):
		m.leavePeers("the node's key has expired")
	case peersExpired(nm, applied, now):
		m.apply(nm)
	}
}

// peersExpired reports whether the key of a peer has expired between two times.
func peersExpired(nm *control.NetMap, from, to time.Time) bool {
	from, to = from.Add(nm.ClockSkew), to.Add(nm.ClockSkew)
	for _, p := range nm.Peers {
		if !p.KeyExpiry.IsZero() && p.KeyExpiry.After(from) && !p.KeyExpiry.After(to) {
			return true
		}
	}
	return false
}

// leavePeers goes on with a map that has the node itself only.
func (m *membership) leavePeers(reason string) {
	m.mu.Lock()
	nm := m.netmap
	m.mu.Unlock()
	if nm == nil || len(nm.Peers) == 0 {
		return
	}
	m.n.log.Warn("peers are given up", "reason", reason)
	alone := *nm
	alone.Peers = nil
	m.apply(&alone)
}
