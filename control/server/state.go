package server

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"ginnel/control/policy"
	"ginnel/internal/key"
)

// state is everything that the server knows. It belongs to the loop, and is changed by transactions
// only.
type state struct {
	counters   counters
	policyText string
	policySet  time.Time
	policy     *policy.Policy // nil: none

	users  map[int64]*user
	nodes  map[int64]*node
	keys   map[int64]*authKey
	tokens map[int64]*token
	logins map[string]*login

	blocked map[key.MachinePublic]*blockRecord
	deleted map[key.MachinePublic]deletion // by an administrator, not long ago; not stored

	// What the maps above hold, by other names.
	byKey     map[key.NodePublic]int64
	byMachine map[key.MachinePublic]map[int64]bool
	byLabel   map[string]int64
	byAddr    map[netip.Addr]int64
	byHash    map[[32]byte]int64 // auth keys and tokens alike: their hashes differ
	byUser    map[string]int64

	baseDomain string
	pools      []netip.Prefix    // from which nodes get their addresses
	revisions  map[string]uint64 // of the records in the store
}

func newState(cfg *Config) *state {
	v4, v6 := cfg.prefixes()
	return &state{
		pools:      slices.DeleteFunc([]netip.Prefix{v4, v6}, func(p netip.Prefix) bool { return !p.IsValid() }),
		users:      make(map[int64]*user),
		nodes:      make(map[int64]*node),
		keys:       make(map[int64]*authKey),
		tokens:     make(map[int64]*token),
		logins:     make(map[string]*login),
		blocked:    make(map[key.MachinePublic]*blockRecord),
		deleted:    make(map[key.MachinePublic]deletion),
		byKey:      make(map[key.NodePublic]int64),
		byMachine:  make(map[key.MachinePublic]map[int64]bool),
		byLabel:    make(map[string]int64),
		byAddr:     make(map[netip.Addr]int64),
		byHash:     make(map[[32]byte]int64),
		byUser:     make(map[string]int64),
		baseDomain: cfg.BaseDomain,
		revisions:  make(map[string]uint64),
	}
}

// nodeByKey returns the node with a key, or nil.
func (st *state) nodeByKey(k key.NodePublic) *node { return st.nodes[st.byKey[k]] }

// nodeOf returns the node of a machine, or nil. Older versions gave a machine a node for each
// owner; of several it is the one with the node key, the one of the owner, or the oldest, in this
// order.
func (st *state) nodeOf(m key.MachinePublic, k key.NodePublic, owner int64) *node {
	ids := slices.Sorted(maps.Keys(st.byMachine[m]))
	if len(ids) == 0 {
		return nil
	}
	for _, is := range []func(n *node) bool{
		func(n *node) bool { return n.rec.Key == k },
		func(n *node) bool { return n.owner() == owner },
	} {
		if i := slices.IndexFunc(ids, func(id int64) bool { return is(st.nodes[id]) }); i >= 0 {
			return st.nodes[ids[i]]
		}
	}
	return st.nodes[ids[0]]
}

func (st *state) labelTaken(label string) bool { return st.byLabel[label] != 0 }

func (st *state) addrTaken(a netip.Addr) bool { return st.byAddr[a] != 0 }

// owner returns the user that a node is shown with.
func (st *state) owner(n *node) *user {
	if n.tagged() {
		return taggedUser
	}
	return st.users[n.rec.User]
}

// fullName returns the name of a label in the network.
func (st *state) fullName(label string) string { return label + "." + st.baseDomain + "." }
