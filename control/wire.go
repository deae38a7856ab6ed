package control

import (
	"net/netip"
	"time"

	"ginnel/internal/key"
)

// CapabilityVersion is the version of the protocol that this package claims to speak (control
// specification, section 11).
const CapabilityVersion = 131

// MinCapabilityVersion is what a server of ours asks of a client: none of the forms that are older
// is written or read.
const MinCapabilityVersion = 113

// The types of this file and its neighbours are the JSON documents of the protocol. Their fields
// are named as the documents name them. A field that is absent, null or zero says the same, except
// where a nil slice or map means "unchanged" and an empty one "none": all of them are written
// unless they are nil.

// ServerKeys is the answer to GET /key (section 1.2).
type ServerKeys struct {
	LegacyPublicKey key.MachinePublic `json:"legacyPublicKey"`
	PublicKey       key.MachinePublic `json:"publicKey"`
}

// RegisterRequest asks to be let in, to be forgotten, or whether one still is (section 4.1).
type RegisterRequest struct {
	Version    int
	NodeKey    key.NodePublic
	OldNodeKey key.NodePublic `json:",omitzero"`
	Auth       *RegisterAuth  `json:",omitzero"`
	Expiry     time.Time      `json:",omitzero"` // in the past: log out
	Followup   string         `json:",omitzero"` // the AuthURL that is waited for
	Hostinfo   *Hostinfo      `json:",omitzero"`
	Ephemeral  bool           `json:",omitzero"`
}

// RegisterAuth carries a pre-auth key.
type RegisterAuth struct {
	AuthKey string `json:",omitzero"`
}

// RegisterResponse is the answer (section 4.2).
type RegisterResponse struct {
	User              User
	Login             Login
	NodeKeyExpired    bool
	MachineAuthorized bool
	AuthURL           string
	NodeKeySignature  []byte `json:",omitzero"`
	Error             string `json:",omitzero"`
}

// User is the owner of nodes.
type User struct {
	ID            int64
	DisplayName   string    `json:",omitzero"`
	ProfilePicURL string    `json:",omitzero"`
	Created       time.Time `json:",omitzero"`
}

// Login is an identity that a user is known by.
type Login struct {
	ID            int64  `json:",omitzero"`
	Provider      string `json:",omitzero"`
	LoginName     string
	DisplayName   string `json:",omitzero"`
	ProfilePicURL string `json:",omitzero"`
}

// UserProfile is what others are shown of a user.
type UserProfile struct {
	ID            int64
	LoginName     string
	DisplayName   string   `json:",omitzero"`
	ProfilePicURL string   `json:",omitzero"`
	Groups        []string `json:",omitzero"`
}

// CompressZstd is the only compression of map responses there is.
const CompressZstd = "zstd"

// MapRequest opens a stream of the network map, or updates what the server knows of the node
// (section 5.2).
type MapRequest struct {
	Version       int
	Compress      string `json:",omitzero"`
	KeepAlive     bool   `json:",omitzero"`
	NodeKey       key.NodePublic
	DiscoKey      key.DiscoPublic  `json:",omitzero"`
	Stream        bool             `json:",omitzero"`
	Hostinfo      *Hostinfo        `json:",omitzero"`
	Endpoints     []netip.AddrPort `json:",omitzero"`
	EndpointTypes []EndpointType   `json:",omitzero"`
	OmitPeers     bool             `json:",omitzero"`
	ReadOnly      bool             `json:",omitzero"`
	DebugFlags    []string         `json:",omitzero"`
}

// EndpointType says where an endpoint was learned.
type EndpointType int

// Endpoint types (section 5.2).
const (
	EndpointUnknown       EndpointType = iota
	EndpointLocal                      // of an interface
	EndpointSTUN                       // as a STUN server sees the node
	EndpointPortMapped                 // by agreement with a router
	EndpointSTUNLocalPort              // STUN's address with the local port
	EndpointConfigured
)

// MapResponse is one frame of a stream (section 5.6).
type MapResponse struct {
	KeepAlive     bool         `json:",omitzero"`
	PingRequest   *PingRequest `json:",omitzero"`
	PopBrowserURL string       `json:",omitzero"`

	Node    *Node    `json:",omitzero"`
	DERPMap *DERPMap `json:",omitzero"`

	Peers             []*Node          `json:",omitzero"` // empty is as good as absent
	PeersChanged      []*Node          `json:",omitzero"`
	PeersRemoved      []int64          `json:",omitzero"`
	PeersChangedPatch []*PeerChange    `json:",omitzero"`
	PeerSeenChange    map[int64]bool   `json:",omitzero"`
	OnlineChange      map[int64]bool   `json:",omitzero"`
	DNSConfig         *DNSConfig       `json:",omitzero"`
	Domain            string           `json:",omitzero"`
	CollectServices   *bool            `json:",omitzero"`
	PacketFilter      []FilterRule     `json:",omitzero"` // the chunk "base" of PacketFilters; empty: nothing comes in
	PacketFilters     map[string]Rules `json:",omitzero"` // by chunk; see Rules
	UserProfiles      []UserProfile    `json:",omitzero"`

	Health          []string                   `json:",omitzero"`
	DisplayMessages map[string]*DisplayMessage `json:",omitzero"` // null: gone

	ControlTime     time.Time        `json:",omitzero"`
	Debug           *Debug           `json:",omitzero"`
	ControlDialPlan *ControlDialPlan `json:",omitzero"`
	ClientVersion   *ClientVersion   `json:",omitzero"`
}

// Rules are the rules of one chunk of a packet filter. In a MapResponse nil, written as null, takes
// the chunk away, and an empty list is a chunk without rules. The key "*" with null takes all
// chunks away before the others are applied.
type Rules []FilterRule

// MessageDuplicateKey is the name of the display message by which our server tells a node that
// another process uses its key.
const MessageDuplicateKey = "duplicate-key"

// DisplayMessage is news for the user (section 5.6).
type DisplayMessage struct {
	Title               string
	Text                string
	Severity            string         `json:",omitzero"` // high, medium or low
	ImpactsConnectivity bool           `json:",omitzero"`
	PrimaryAction       *DisplayAction `json:",omitzero"`
}

// DisplayAction is what the user can do about it.
type DisplayAction struct {
	URL   string
	Label string
}

// Debug are instructions to the client.
type Debug struct {
	SleepSeconds   float64 `json:",omitzero"`
	DisableLogTail bool    `json:",omitzero"`
	Exit           *int    `json:",omitzero"`
}

// ControlDialPlan says at which addresses the server can be tried.
type ControlDialPlan struct {
	Candidates []ControlIPCandidate `json:",omitzero"`
}

// ControlIPCandidate is one of them.
type ControlIPCandidate struct {
	IP                netip.Addr `json:",omitzero"`
	ACEHost           string     `json:",omitzero"`
	DialStartDelaySec float64    `json:",omitzero"`
	DialTimeoutSec    float64    `json:",omitzero"`
	Priority          int        `json:",omitzero"`
}

// ClientVersion says whether there is something newer.
type ClientVersion struct {
	RunningLatest        bool   `json:",omitzero"`
	LatestVersion        string `json:",omitzero"`
	UrgentSecurityUpdate bool   `json:",omitzero"`
	Notify               bool   `json:",omitzero"`
	NotifyURL            string `json:",omitzero"`
	NotifyText           string `json:",omitzero"`
}

// PingRequest asks the client to prove something (section 10.2).
type PingRequest struct {
	URL        string     `json:",omitzero"`
	URLIsNoise bool       `json:",omitzero"`
	Log        bool       `json:",omitzero"`
	Types      string     `json:",omitzero"`
	IP         netip.Addr `json:",omitzero"`
	Payload    []byte     `json:",omitzero"`
}

// PingResponse is the proof, for the types that have one.
type PingResponse struct {
	Type           string
	IP             string  `json:",omitzero"`
	NodeIP         string  `json:",omitzero"`
	NodeName       string  `json:",omitzero"`
	Err            string  `json:",omitzero"`
	LatencySeconds float64 `json:",omitzero"`
	Endpoint       string  `json:",omitzero"`
	PeerRelay      string  `json:",omitzero"`
	DERPRegionID   int     `json:",omitzero"`
	DERPRegionCode string  `json:",omitzero"`
	PeerAPIPort    uint16  `json:",omitzero"`
	IsLocalIP      bool    `json:",omitzero"`
}

// AdmitRequest is what a relay asks about one of its clients (section 10.3, /verify).
type AdmitRequest struct {
	NodePublic key.NodePublic
	Source     netip.Addr
}

// AdmitResponse is the answer.
type AdmitResponse struct{ Allow bool }
