package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"ginnel/control"
	"ginnel/key"
)

// A node saves its network map, so that it can start while its coordination server cannot be
// reached. The expiry of keys and the policy in the map are enforced without the server too.

const (
	// lastMapAge bounds the age of a map with which a node starts, because the node does not know
	// what the server has changed since, for example that it has removed a node.
	lastMapAge = 24 * time.Hour

	// saveMapEvery is the least time between two saves of a map that changes. A large map is saved
	// less often, so that saving takes 1/saveMapShare of the time at most.
	saveMapEvery = time.Minute
	saveMapShare = 100
)

// savedMap is the stored form of a map.
type savedMap struct {
	Saved  time.Time            `json:"saved"`
	Server string               `json:"server"` // URL
	Node   key.NodePublic       `json:"node"`   // the node that received the map
	Map    *control.MapResponse `json:"map"`
}

// mapKeeper saves and loads the maps of a membership. It is owned by membership.run.
type mapKeeper struct {
	cfg     *Control
	unsaved *control.NetMap // newer than the saved map; nil if there is none
	next    time.Time       // no save before
	tried   bool            // the saved map was loaded, or could not be
	onLast  bool            // the node has started with the saved map and not received another yet
}

// note takes the server's latest map, and saves it if the last save is long enough ago.
func (k *mapKeeper) note(nm *control.NetMap, now time.Time) error {
	k.unsaved, k.onLast = nm, false
	if now.Before(k.next) {
		return nil
	}
	return k.flush(now)
}

// flush saves the latest map if it is not saved yet. Maps of ephemeral nodes are not saved, because
// the server forgets such a node when it is gone.
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
		return fmt.Errorf("saving the network map: %w", err)
	}
	return nil
}

var errNoLastMap = errors.New("there is no saved network map")

// load returns the saved map if the node may start with it, and when it was saved.
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
		return nil, time.Time{}, errors.New("the saved network map is damaged")
	}
	switch age := now.Sub(s.Saved); {
	case s.Node != node || s.Server != k.cfg.URL:
		return nil, s.Saved, errors.New("the saved network map is of another node or server")
	case age < 0 || age > lastMapAge:
		return nil, s.Saved, fmt.Errorf("the saved network map is of %s, and must not be older than %v",
			s.Saved.UTC().Format(time.RFC3339), lastMapAge)
	}
	var none *control.NetMap
	nm, err := none.Apply(s.Map, s.Saved)
	if err != nil {
		return nil, s.Saved, fmt.Errorf("reading the saved network map: %w", err)
	}
	if expired(nm, now) {
		return nil, s.Saved, errKeyExpired
	}
	return nm, s.Saved, nil
}

// startOnLast has the node start with its saved map if the server cannot be reached.
func (m *membership) startOnLast(err error) {
	if m.hasJoined() || m.maps.tried || !errors.Is(err, control.ErrUnreachable) {
		return
	}
	m.maps.tried = true
	nm, saved, err := m.maps.load(m.n.key().Public(), time.Now())
	switch {
	case errors.Is(err, errNoLastMap):
		m.n.log.Debug("network map not loaded", "err", err)
	case err != nil:
		m.n.log.Warn("saved network map not used", "err", err)
	default:
		m.n.log.Warn("coordination server unreachable: starting with the saved network map", "saved", saved.UTC())
		m.maps.onLast = true
		m.apply(nm)
	}
}

// keepMap saves a map from the server.
func (m *membership) keepMap(nm *control.NetMap) {
	if err := m.maps.note(nm, time.Now()); err != nil {
		m.n.log.Warn("network map not saved: the node cannot start without the coordination server", "err", err)
	}
}

// flushMap saves the latest map when the conversation ends.
func (m *membership) flushMap() {
	if err := m.maps.flush(time.Now()); err != nil {
		m.n.log.Warn("network map not saved: the node cannot start without the coordination server", "err", err)
	}
}

// honourExpiry applies the expiry of keys while there is no conversation with the server: it drops
// peers whose keys have expired, and all peers if the node's own key has.
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

// peersExpired reports whether the key of a peer has expired between two times of this node's
// clock.
func peersExpired(nm *control.NetMap, from, to time.Time) bool {
	from, to = from.Add(nm.ClockSkew), to.Add(nm.ClockSkew)
	for _, p := range nm.Peers {
		if !p.KeyExpiry.IsZero() && p.KeyExpiry.After(from) && !p.KeyExpiry.After(to) {
			return true
		}
	}
	return false
}

// leavePeers replaces the map by one without peers.
func (m *membership) leavePeers(reason string) {
	m.mu.Lock()
	nm := m.netmap
	m.mu.Unlock()
	if nm == nil || len(nm.Peers) == 0 {
		return
	}
	m.n.log.Warn("peers dropped", "reason", reason)
	alone := *nm
	alone.Peers = nil
	m.apply(&alone)
}
