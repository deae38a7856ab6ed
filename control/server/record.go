package server

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"ginnel/control"
	"ginnel/key"
)

// The store holds each record below as JSON, at its path. A record is never modified. A change
// stores a new record instead, so that readers of the old one need no lock.
const (
	serverPath   = "server"   // serverRecord
	countersPath = "counters" // counters
	policyPath   = "policy"   // policyRecord
	usersPrefix  = "users/"
	nodesPrefix  = "nodes/"
	keysPrefix   = "keys/"
	tokensPrefix = "tokens/"
	loginsPrefix = "logins/"

	blockedPrefix = "blocked/" // blockRecord, by machine
)

// record is the content of one record of the store. Its JSON form is stored.
type record interface {
	path() string
}

func (r serverRecord) path() string { return serverPath }
func (c counters) path() string     { return countersPath }
func (r policyRecord) path() string { return policyPath }
func (u *user) path() string        { return numberedPath(usersPrefix, u.ID) }
func (r *nodeRecord) path() string  { return numberedPath(nodesPrefix, r.ID) }
func (k *authKey) path() string     { return numberedPath(keysPrefix, k.ID) }
func (k *token) path() string       { return numberedPath(tokensPrefix, k.ID) }
func (l *login) path() string       { return loginsPrefix + l.ID }

func (r *blockRecord) path() string {
	_, digits, _ := strings.Cut(r.Machine.String(), ":")
	return blockedPrefix + digits
}

func numberedPath(prefix string, id int64) string { return prefix + strconv.FormatInt(id, 10) }

// serverRecord is the server's identity. It never changes.
type serverRecord struct {
	Key key.MachinePrivate
}

// counters are the latest numbers and the latest address that were assigned. No number is assigned
// twice.
type counters struct {
	Node, User, AuthKey, Token int64
	Address                    uint64
}

// policyRecord is the policy as the administrator wrote it.
type policyRecord struct {
	Text    string
	Changed time.Time
}

// user is an owner of nodes.
type user struct {
	ID      int64
	Name    string
	Display string `json:",omitzero"`
	Created time.Time
}

// taggedUser is the owner that the protocol shows for all tagged nodes.
var taggedUser = &user{ID: 2147455555, Name: "tagged-devices", Display: "Tagged Devices"}

func (u *user) display() string {
	if u.Display != "" {
		return u.Display
	}
	return u.Name
}

func (u *user) wire() control.User {
	return control.User{ID: u.ID, DisplayName: u.display(), Created: u.Created}
}

func (u *user) login() control.Login {
	return control.Login{ID: u.ID, LoginName: u.Name, DisplayName: u.display()}
}

func (u *user) profile() control.UserProfile {
	return control.UserProfile{ID: u.ID, LoginName: u.Name, DisplayName: u.display()}
}

// nodeRecord is the stored part of a node.
type nodeRecord struct {
	ID        int64
	Machine   key.MachinePublic
	Key       key.NodePublic
	Disco     key.DiscoPublic `json:",omitzero"`
	User      int64           // whose key or approval admitted the node, even if it has tags
	V4        netip.Addr      `json:",omitzero"`
	V6        netip.Addr      `json:",omitzero"`
	Label     string
	Given     bool              `json:",omitzero"` // an administrator chose Label
	Tags      []string          `json:",omitzero"`
	Expiry    time.Time         `json:",omitzero"` // of Key; zero: never
	Ephemeral bool              `json:",omitzero"`
	Created   time.Time         `json:",omitzero"`
	LastSeen  time.Time         `json:",omitzero"`
	Hostinfo  *control.Hostinfo `json:",omitzero"`
	Endpoints []netip.AddrPort  `json:",omitzero"`
	Cap       int               `json:",omitzero"`
	Approved  []netip.Prefix    `json:",omitzero"` // by an administrator, whether advertised or not
	AuthKey   int64             `json:",omitzero"` // of the latest registration; 0: approved interactively
	Primary   []netip.Prefix    `json:",omitzero"` // subnets that the node was elected for
}

// authKey is a pre-auth key. Only its hash is stored.
type authKey struct {
	ID        int64
	Hash      [32]byte
	User      int64
	Reusable  bool     `json:",omitzero"`
	Ephemeral bool     `json:",omitzero"`
	TakeOver  bool     `json:",omitzero"` // a new node may take over an offline one
	Tags      []string `json:",omitzero"`
	Created   time.Time
	Expiry    time.Time `json:",omitzero"`
	Used      time.Time `json:",omitzero"` // the latest use
	Revoked   bool      `json:",omitzero"`
}

// token authenticates an administrator to the API. Only its hash is stored.
type token struct {
	ID      int64
	Hash    [32]byte
	Name    string `json:",omitzero"`
	Created time.Time
	Expiry  time.Time `json:",omitzero"`
}

// blockRecord stops a machine from registering.
type blockRecord struct {
	Machine key.MachinePublic
	Node    string // the label of its node when that was deleted
	Created time.Time
}

// login is a node that waits for an administrator's approval.
type login struct {
	ID        string
	Machine   key.MachinePublic
	Key       key.NodePublic
	Cap       int
	Expiry    time.Time         // that the node requests for its key
	Until     time.Time         // when the login expires
	Hostinfo  *control.Hostinfo `json:",omitzero"`
	Ephemeral bool              `json:"Brief,omitzero"` // requested by the node
	Source    netip.Prefix      `json:",omitzero"`      // address of the request; see share.SourceOf

	endc    chan struct{} // closed when the login is approved, refused or expired
	refused bool          // valid once endc is closed
}
