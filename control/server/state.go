package server

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"ginnel/control/policy"
	"ginnel/key"
)

// state is the whole knowledge of the server. The loop owns it. Only transactions change it.
type state struct {
	counters   counters
	policyText string
	policySet  time.Time
	policy     *policy.Policy // nil means that there is no policy

	users  map[int64]*user
	nodes  map[int64]*node
	keys   map[int64]*authKey
	tokens map[int64]*token
	logins map[string]*login

	blocked map[key.MachinePublic]*blockRecord
	deleted map[key.MachinePublic]deletion // recent deletions by an administrator, in memory only

	// Indexes of the maps above.
	byKey     map[key.NodePublic]int64
	byMachine map[key.MachinePublic]map[int64]bool
	byLabel   map[string]int64
	byAddr    map[netip.Addr]int64
	byHash    map[[32]byte]int64 // of auth keys and tokens, whose hashes cannot be equal
	byUser    map[string]int64

	baseDomain string
	pools      []netip.Prefix    // the address ranges of nodes
	revisions  map[string]uint64 // of the records, by path
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

// nodeByKey returns the node with a node key, or nil.
func (st *state) nodeByKey(k key.NodePublic) *node { return st.nodes[st.byKey[k]] }

// nodeOf returns the node of a machine, or nil. Older versions made one node for each owner of a
// machine. Among several nodes, nodeOf prefers the one with the given node key, then the one with
// the given owner, then the oldest.
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

// labelOf returns the label of a node whose host name is given. It may keep its current label.
func (st *state) labelOf(rec *nodeRecord, hostname string) string {
	return uniqueLabel(hostname, func(l string) bool { return l != rec.Label && st.labelTaken(l) })
}

func (st *state) addrTaken(a netip.Addr) bool { return st.byAddr[a] != 0 }

// owner returns the user that the node is shown with. It is nil if that user is gone.
func (st *state) owner(n *node) *user {
	if n.tagged() {
		return taggedUser
	}
	return st.users[n.rec.User]
}

// fullName returns the domain name of a label, with a trailing dot.
func (st *state) fullName(label string) string { return label + "." + st.baseDomain + "." }
