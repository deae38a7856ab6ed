package server

import (
	"slices"

	"ginnel/control"
)

// snapshot is the network at one moment, as streams show it. It is never modified.
type snapshot struct {
	nodes []*node // ordered by ID
	users map[int64]*user
	rules *rules
	// redundant are the online routers whose subnets another online router also serves.
	redundant map[int64]bool
	derp      *control.DERPMap
	dns       *control.DNSConfig
}

// node returns a node, or nil.
func (v *snapshot) node(id int64) *node {
	if i, ok := slices.BinarySearchFunc(v.nodes, id, byID); ok {
		return v.nodes[i]
	}
	return nil
}

// with returns v.nodes with the nodes ids replaced or added as lookup returns them, or removed if
// lookup returns nil. ids must be sorted.
func (v *snapshot) with(ids []int64, lookup func(id int64) *node) []*node {
	nodes := make([]*node, 0, len(v.nodes)+len(ids))
	rest := v.nodes
	for _, id := range ids {
		i, found := slices.BinarySearchFunc(rest, id, byID)
		nodes = append(nodes, rest[:i]...)
		if rest = rest[i:]; found {
			rest = rest[1:]
		}
		if n := lookup(id); n != nil {
			nodes = append(nodes, n)
		}
	}
	return append(nodes, rest...)
}

// user returns the owner of a node by ID, including the owner of all tagged nodes.
func (v *snapshot) user(id int64) *user {
	if id == taggedUser.ID {
		return taggedUser
	}
	return v.users[id]
}

// profiles returns the owners of nodes, each once.
func (v *snapshot) profiles(nodes []*control.Node) []control.UserProfile {
	var list []control.UserProfile
	seen := make(map[int64]bool)
	for _, n := range nodes {
		if seen[n.User] {
			continue
		}
		seen[n.User] = true
		if u := v.user(n.User); u != nil {
			list = append(list, u.profile())
		}
	}
	return list
}
