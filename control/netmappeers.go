package control

import (
	"cmp"
	"reflect"
	"slices"
	"time"
)

// This file applies changes to the peers of a NetMap (control specification, section 5.5), the part
// that can be large. A frame that changes one peer copies that peer and the list of pointers.

func compareNodes(a, b *Node) int { return cmp.Compare(a.ID, b.ID) }

func findNode(peers []*Node, id int64) (int, bool) {
	return slices.BinarySearchFunc(peers, id, func(n *Node, id int64) int { return cmp.Compare(n.ID, id) })
}

// applyPeers returns the peers after a frame. Changes of unknown IDs are ignored.
func applyPeers(peers []*Node, r *MapResponse, now time.Time) []*Node {
	if all := sortNodes(r.Peers); len(all) > 0 {
		return all
	}
	peers = removePeers(peers, r.PeersRemoved)
	peers = mergePeers(peers, sortNodes(r.PeersChanged))
	e := peerEditor{peers: peers}
	for id, seen := range r.PeerSeenChange {
		if n := e.edit(id); n != nil {
			n.LastSeen = time.Time{}
			if seen {
				n.LastSeen = now
			}
		}
	}
	for id, online := range r.OnlineChange {
		if n := e.edit(id); n != nil {
			n.Online = &online
		}
	}
	for _, change := range r.PeersChangedPatch {
		if change == nil {
			continue
		}
		if n := e.edit(change.NodeID); n != nil {
			change.patch(n)
		}
	}
	return e.peers
}

// sortNodes normalizes nodes and sorts them by ID. Of several with one ID it keeps the last; nil
// and nodes without a positive ID are dropped.
func sortNodes(nodes []*Node) []*Node {
	if len(nodes) == 0 {
		return nil
	}
	sorted := make([]*Node, 0, len(nodes))
	for _, n := range slices.Backward(nodes) {
		if n != nil && n.ID > 0 {
			n.normalize()
			sorted = append(sorted, n)
		}
	}
	slices.SortStableFunc(sorted, compareNodes)
	return slices.CompactFunc(sorted, func(a, b *Node) bool { return a.ID == b.ID })
}

func removePeers(peers []*Node, ids []int64) []*Node {
	if len(ids) == 0 {
		return peers
	}
	gone := make(map[int64]bool, len(ids))
	for _, id := range ids {
		gone[id] = true
	}
	left := make([]*Node, 0, len(peers))
	for _, n := range peers {
		if !gone[n.ID] {
			left = append(left, n)
		}
	}
	return left
}

// mergePeers adds changed to peers, replacing those with the same ID. Both lists are sorted by ID.
func mergePeers(peers, changed []*Node) []*Node {
	if len(changed) == 0 {
		return peers
	}
	merged := make([]*Node, 0, len(peers)+len(changed))
	for _, n := range changed {
		i, known := findNode(peers, n.ID)
		merged = append(merged, peers[:i]...)
		peers = peers[i:]
		if known {
			n.inherit(peers[0])
			peers = peers[1:]
		}
		merged = append(merged, n)
	}
	return append(merged, peers...)
}

// inherit copies Online and LastSeen from old, which n replaces, if n lacks them and differs from
// old only in fields that a PeerChange could have carried. tailscaled does so too: it converts such
// a node into a patch.
func (n *Node) inherit(old *Node) {
	online := n.Online == nil && old.Online != nil
	seen := n.LastSeen.IsZero() && !old.LastSeen.IsZero()
	if !online && !seen || !reflect.DeepEqual(n.unpatchable(), old.unpatchable()) {
		return
	}
	if online {
		n.Online = old.Online
	}
	if seen {
		n.LastSeen = old.LastSeen
	}
}

// unpatchable returns n without the fields that a PeerChange can carry.
func (n *Node) unpatchable() Node {
	u := *n
	u.HomeDERP, u.Cap, u.CapMap, u.Endpoints = 0, 0, nil, nil
	u.Key, u.DiscoKey, u.KeyExpiry = [32]byte{}, [32]byte{}, time.Time{}
	u.Online, u.LastSeen = nil, time.Time{}
	return u
}

// peerEditor changes peers copy-on-write, because snapshots share them.
type peerEditor struct {
	peers  []*Node
	copies map[int64]*Node // the copies that this frame has made and may change
}

// edit returns a copy of the peer with an ID, which may be changed, or nil.
func (e *peerEditor) edit(id int64) *Node {
	if n := e.copies[id]; n != nil {
		return n
	}
	i, ok := findNode(e.peers, id)
	if !ok {
		return nil
	}
	if e.copies == nil {
		e.copies = make(map[int64]*Node)
		e.peers = slices.Clone(e.peers)
	}
	n := *e.peers[i]
	e.peers[i], e.copies[id] = &n, &n
	return &n
}

// patch applies the change to n.
func (p *PeerChange) patch(n *Node) {
	if p.DERPRegion != 0 {
		n.HomeDERP = p.DERPRegion
	}
	if p.Cap != 0 {
		n.Cap = p.Cap
	}
	if p.CapMap != nil {
		n.CapMap = p.CapMap
	}
	if p.Endpoints != nil {
		n.Endpoints = p.Endpoints
	}
	if p.Key != nil {
		n.Key = *p.Key
	}
	if p.DiscoKey != nil {
		n.DiscoKey = *p.DiscoKey
	}
	if p.Online != nil {
		n.Online = p.Online
	}
	if p.LastSeen != nil {
		n.LastSeen = *p.LastSeen
	}
	if p.KeyExpiry != nil {
		n.KeyExpiry = *p.KeyExpiry
	}
}
