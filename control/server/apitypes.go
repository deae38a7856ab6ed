package server

import (
	"net/netip"
	"time"

	"ginnel/key"
)

// The types of this file are the JSON documents of the API, which openapi.json describes.

// User is an owner of nodes.
type User struct {
	ID          int64     `json:"id"`
	Name        string    `json:"name"`
	DisplayName string    `json:"display_name,omitzero"`
	Created     time.Time `json:"created"`
}

// Node is a machine in the network.
type Node struct {
	ID         int64             `json:"id"`
	Name       string            `json:"name"`
	FQDN       string            `json:"fqdn"`
	User       string            `json:"user"` // tagged-devices if the node has tags
	Tags       []string          `json:"tags"`
	Addresses  []netip.Addr      `json:"addresses"`
	NodeKey    key.NodePublic    `json:"node_key"`
	MachineKey key.MachinePublic `json:"machine_key"`
	Online     bool              `json:"online"`
	LastSeen   time.Time         `json:"last_seen,omitzero"`
	Created    time.Time         `json:"created"`
	Expiry     time.Time         `json:"expiry,omitzero"`
	Expired    bool              `json:"expired"`
	Ephemeral  bool              `json:"ephemeral"`
	Contested  bool              `json:"contested"` // another process uses the node's key
	NodeHost
	Relay     int              `json:"relay,omitzero"`
	Endpoints []netip.AddrPort `json:"endpoints"`
	Routes    NodeRoutes       `json:"routes"`
}

// NodeHost is what a node reports about its host. In JSON these are fields of Node.
type NodeHost struct {
	Hostname string `json:"hostname"`
	OS       string `json:"os,omitzero"`
	Version  string `json:"version,omitzero"` // of the client program
}

// NodeRoutes are the routes of a node.
type NodeRoutes struct {
	Advertised []netip.Prefix `json:"advertised"`
	Approved   []netip.Prefix `json:"approved"` // by an administrator
	Served     []netip.Prefix `json:"served"`   // advertised, and approved by an administrator or the policy
	Primary    []netip.Prefix `json:"primary"`  // served subnets that the node is elected for
}

// Route is a route that a node advertises.
type Route struct {
	Prefix   netip.Prefix `json:"prefix"`
	NodeID   int64        `json:"node_id"`
	Node     string       `json:"node"`
	Approved bool         `json:"approved"`
	Primary  bool         `json:"primary"`
	Exit     bool         `json:"exit"`
}

// AuthKey is a pre-auth key, by which nodes register.
type AuthKey struct {
	ID        int64     `json:"id"`
	Key       string    `json:"key,omitzero"` // only in the answer that created it
	User      string    `json:"user"`
	Reusable  bool      `json:"reusable"`
	Ephemeral bool      `json:"ephemeral"`
	TakeOver  bool      `json:"take_over"`
	Tags      []string  `json:"tags"`
	Created   time.Time `json:"created"`
	Expiry    time.Time `json:"expiry,omitzero"`
	Used      time.Time `json:"used,omitzero"`
	State     string    `json:"state"` // valid, used, expired, or revoked by an older version
}

// AuthKeyRequest asks for a new pre-auth key.
type AuthKeyRequest struct {
	User      string    `json:"user"`
	Reusable  bool      `json:"reusable,omitzero"`
	Ephemeral bool      `json:"ephemeral,omitzero"`
	TakeOver  bool      `json:"take_over,omitzero"` // a node takes over an offline node with its name and owner
	Tags      []string  `json:"tags,omitzero"`
	Expiry    time.Time `json:"expiry,omitzero"` // zero: never
}

// Login is a node that waits for approval.
type Login struct {
	ID         string            `json:"id"`
	Hostname   string            `json:"hostname"`
	OS         string            `json:"os,omitzero"`
	Tags       []string          `json:"tags"` // requested by the node
	NodeKey    key.NodePublic    `json:"node_key"`
	MachineKey key.MachinePublic `json:"machine_key"`
	Until      time.Time         `json:"until"`
	Waiting    bool              `json:"waiting"` // the client is connected and waits for the outcome
}

// Token authenticates an administrator to the API.
type Token struct {
	ID      int64     `json:"id"`
	Token   string    `json:"token,omitzero"` // only in the answer that created it
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Expiry  time.Time `json:"expiry,omitzero"`
}

// Policy is the policy in force. Without one everything is allowed.
type Policy struct {
	Text     string    `json:"text"`
	Changed  time.Time `json:"changed,omitzero"`
	Warnings []string  `json:"warnings"`
	Failing  []string  `json:"failing_tests"` // tests that fail; the policy is in force nevertheless

	Explained []string `json:"explained,omitzero"` // the effect of each entry; only if a check asked for it
}

// Page is a part of a list. If Next is not zero, more entries follow, and Next is the after
// parameter of the next request.
type Page[T any] struct {
	Items []T   `json:"items"`
	Next  int64 `json:"next,omitzero"`
}

func (u *user) api() User {
	return User{ID: u.ID, Name: u.Name, DisplayName: u.Display, Created: u.Created}
}

func (t *tx) apiNode(n *node) Node {
	rec := n.rec
	a := Node{
		ID: rec.ID, Name: rec.Label, FQDN: n.name[:len(n.name)-1], Tags: list(rec.Tags), Addresses: rec.addrs(),
		NodeKey: rec.Key, MachineKey: rec.Machine, Online: n.online, LastSeen: rec.LastSeen, Created: rec.Created,
		Expiry: rec.Expiry, Expired: n.expired, Ephemeral: rec.Ephemeral,
		Contested: n.duplicateKey != nil, NodeHost: NodeHost{Hostname: hostname(rec.Hostinfo)},
		Relay: rec.home(), Endpoints: list(rec.Endpoints),
		Routes: NodeRoutes{Approved: list(rec.Approved), Served: list(n.served), Primary: list(n.primary)},
	}
	if u := t.owner(n); u != nil {
		a.User = u.Name
	}
	if h := rec.Hostinfo; h != nil {
		a.OS, a.Version, a.Routes.Advertised = h.OS, h.IPNVersion, h.RoutableIPs
	}
	a.Routes.Advertised = list(a.Routes.Advertised)
	return a
}

func (t *tx) apiKey(k *authKey) AuthKey {
	a := AuthKey{
		ID: k.ID, Reusable: k.Reusable, Ephemeral: k.Ephemeral, TakeOver: k.TakeOver, Tags: list(k.Tags),
		Created: k.Created, Expiry: k.Expiry, Used: k.Used, State: k.state(t.now),
	}
	if u := t.users[k.User]; u != nil {
		a.User = u.Name
	}
	return a
}

func (k *authKey) state(now time.Time) string {
	switch k.usable(now) {
	case nil:
		return "valid"
	case errKeyUsed:
		return "used"
	case errKeyExpired:
		return "expired"
	}
	return "revoked"
}

func (c *core) apiLogin(t *tx, l *login) Login {
	a := Login{
		ID: l.ID, Hostname: hostname(l.Hostinfo), NodeKey: l.Key, MachineKey: l.Machine,
		Until: t.now.Add(c.loginDeadline(l).Sub(t.mono)).UTC(), Waiting: c.loginWaits[l.ID].open > 0, Tags: []string{},
	}
	if l.Hostinfo != nil {
		a.OS, a.Tags = l.Hostinfo.OS, list(l.Hostinfo.RequestTags)
	}
	return a
}

func (k *token) api() Token {
	return Token{ID: k.ID, Name: k.Name, Created: k.Created, Expiry: k.Expiry}
}

// list returns a copy of a slice that is not nil, so that JSON shows an empty list instead of null.
func list[T any](l []T) []T { return append(make([]T, 0, len(l)), l...) }
