package server

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"ginnel/control"
	"ginnel/internal/key"
)

// The records of this file are what the store holds, as JSON, each at its path. They are never
// changed in place: a change puts another record in their place, so that whoever reads one needs no
// lock.

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

// serverRecord is the server's identity, the same for the life of the network.
type serverRecord struct {
	Key key.MachinePrivate
}

// counters are the numbers given out last; none is given twice.
type counters struct {
	Node, User, AuthKey, Token int64
	Address                    uint64
}

// policyRecord is the policy as its author wrote it.
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

// taggedUser owns, on the wire, all nodes that have tags.
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

// nodeRecord is what is kept of a node.
type nodeRecord struct {
	ID        int64
	Machine   key.MachinePublic
	Key       key.NodePublic
	Disco     key.DiscoPublic `json:",omitzero"`
	User      int64           // who let it in, also if it has tags
	V4        netip.Addr      `json:",omitzero"`
	V6        netip.Addr      `json:",omitzero"`
	Label     string
	Given     bool              `json:",omitzero"` // Label is an administrator's choice, and stays
	Tags      []string          `json:",omitzero"`
	Expiry    time.Time         `json:",omitzero"` // of Key; zero: never
	Ephemeral bool              `json:",omitzero"`
	Created   time.Time         `json:",omitzero"`
	LastSeen  time.Time         `json:",omitzero"`
	Hostinfo  *control.Hostinfo `json:",omitzero"`
	Endpoints []netip.AddrPort  `json:",omitzero"`
	Cap       int               `json:",omitzero"`
	Approved  []netip.Prefix    `json:",omitzero"` // by an administrator, advertised or not
	AuthKey   int64             `json:",omitzero"` // that let it in last
	Primary   []netip.Prefix    `json:",omitzero"` // that it was elected for last
}

// authKey is a pre-auth key. The key itself is shown once and not kept.
type authKey struct {
	ID        int64
	Hash      [32]byte
	User      int64
	Reusable  bool     `json:",omitzero"`
	Ephemeral bool     `json:",omitzero"`
	TakeOver  bool     `json:",omitzero"` // an offline node's name, addresses and number pass to the new one
	Tags      []string `json:",omitzero"`
	Created   time.Time
	Expiry    time.Time `json:",omitzero"`
	Used      time.Time `json:",omitzero"` // the last time
	Revoked   bool      `json:",omitzero"`
}

// token lets its bearer use the API.
type token struct {
	ID      int64
	Hash    [32]byte
	Name    string `json:",omitzero"`
	Created time.Time
	Expiry  time.Time `json:",omitzero"`
}

// blockRecord keeps a machine out.
type blockRecord struct {
	Machine key.MachinePublic
	Node    string // the name of its node, when that was deleted
	Created time.Time
}

// login is a node that waits to be let in.
type login struct {
	ID        string
	Machine   key.MachinePublic
	Key       key.NodePublic
	Cap       int
	Expiry    time.Time         // of the request to join
	Until     time.Time         // when the login is forgotten
	Hostinfo  *control.Hostinfo `json:",omitzero"`
	Ephemeral bool              `json:"Brief,omitzero"` // requested by the node
	Source    netip.Prefix      `json:",omitzero"`      // where the request came from; see share.SourceOf

	endc    chan struct{} // closed when the login was approved, refused or forgotten
	refused bool          // before endc was closed
}
