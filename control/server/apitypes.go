package server

import (
	"net/netip"
	"time"

	"ginnel/internal/key"
)

// The types of this file are the documents of the API, which openapi.json describes.

// User owns nodes.
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
	User       string            `json:"user"` // tagged-devices if it has tags
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
	Contested  bool              `json:"contested"` // two processes use its key
	NodeHost
	Relay     int              `json:"relay,omitzero"`
	Endpoints []netip.AddrPort `json:"endpoints"`
	Routes    NodeRoutes       `json:"routes"`
}

// NodeHost is what a node says of its host. Its fields are fields of Node in JSON.
type NodeHost struct {
	Hostname string `json:"hostname"`
	OS       string `json:"os,omitzero"`
	Version  string `json:"version,omitzero"` // of the client program
}

// NodeRoutes are the routes of a node: those it offers, those an administrator approved, those in
// use, and those of the latter that it is elected for among several.
type NodeRoutes struct {
	Advertised []netip.Prefix `json:"advertised"`
	Approved   []netip.Prefix `json:"approved"`
	Served     []netip.Prefix `json:"served"`
	Primary    []netip.Prefix `json:"primary"`
}

// Route is a subnet, or the Internet, that a node offers or may offer.
type Route struct {
	Prefix   netip.Prefix `json:"prefix"`
	NodeID   int64        `json:"node_id"`
	Node     string       `json:"node"`
	Approved bool         `json:"approved"`
	Primary  bool         `json:"primary"`
	Exit     bool         `json:"exit"`
}

// AuthKey lets nodes in. The key itself is there only in the answer that made it.
type AuthKey struct {
	ID        int64     `json:"id"`
	Key       string    `json:"key,omitzero"`
	User      string    `json:"user"`
	Reusable  bool      `json:"reusable"`
	Ephemeral bool      `json:"ephemeral"`
	TakeOver  bool      `json:"take_over"`
	Tags      []string  `json:"tags"`
	Created   time.Time `json:"created"`
	Expiry    time.Time `json:"expiry,omitzero"`
	Used      time.Time `json:"used,omitzero"`
	State     string    `json:"state"` // valid, used or expired; revoked of an older version
}

// AuthKeyRequest asks for a key.
type AuthKeyRequest struct {
	User      string    `json:"user"`
	Reusable  bool      `json:"reusable,omitzero"`
	Ephemeral bool      `json:"ephemeral,omitzero"`
	TakeOver  bool      `json:"take_over,omitzero"` // a node takes the place of an offline one of its name and owner
	Tags      []string  `json:"tags,omitzero"`
	Expiry    time.Time `json:"expiry,omitzero"` // zero: never
}

// Login is a node that waits to be let in.
type Login struct {
	ID         string            `json:"id"`
	Hostname   string            `json:"hostname"`
	OS         string            `json:"os,omitzero"`
	Tags       []string          `json:"tags"` // that it asks for
	NodeKey    key.NodePublic    `json:"node_key"`
	MachineKey key.MachinePublic `json:"machine_key"`
	Until      time.Time         `json:"until"`
	Waiting    bool              `json:"waiting"` // its client asks right now what has become of it
}

// Token lets its bearer use the API. The token itself is there only in the answer that made it.
type Token struct {
	ID      int64     `json:"id"`
	Token   string    `json:"token,omitzero"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Expiry  time.Time `json:"expiry,omitzero"`
}

// Policy is the policy in force. Without one everybody may do everything.
type Policy struct {
	Text     string    `json:"text"`
	Changed  time.Time `json:"changed,omitzero"`
	Warnings []string  `json:"warnings"`
	Failing  []string  `json:"failing_tests"` // on the nodes there are; the policy is in force all the same

	Explained []string `json:"explained,omitzero"` // what each entry does, if a check was asked for it
}

// Page is a part of a list. Next, unless it is zero, is what the next part begins after.
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
	a := Login{ID: l.ID, Hostname: hostname(l.Hostinfo), NodeKey: l.Key, MachineKey: l.Machine, Until: t.now.Add(c.loginDeadline(l).Sub(t.mono)).UTC(),
		Waiting: c.loginWaits[l.ID].open > 0, Tags: []string{}}
	if l.Hostinfo != nil {
		a.OS, a.Tags = l.Hostinfo.OS, list(l.Hostinfo.RequestTags)
	}
	return a
}

func (k *token) api() Token {
	return Token{ID: k.ID, Name: k.Name, Created: k.Created, Expiry: k.Expiry}
}

// list returns a copy that is not nil: an empty list is written as one.
func list[T any](l []T) []T { return append(make([]T, 0, len(l)), l...) }
