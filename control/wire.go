package control

import (
	"net/netip"
	"time"

	"ginnel/key"
)

// CapabilityVersion is the protocol version that this package announces (control specification,
// section 11).
const CapabilityVersion = 131

// MinCapabilityVersion is the lowest version that our server accepts. Older forms of the documents
// are neither written nor read.
const MinCapabilityVersion = 113

// The types of this file and of wirenode.go are the JSON documents of the protocol, with the names
// of the documents. An absent, a null and a zero field mean the same. The exception is a slice or
// map that is a delta: nil means "unchanged" and empty means "none", so it is written unless it is
// nil.

// ServerKeys is the answer to GET /key (section 1.2).
type ServerKeys struct {
	LegacyPublicKey key.MachinePublic `json:"legacyPublicKey"`
	PublicKey       key.MachinePublic `json:"publicKey"`
}

// RegisterRequest registers a node key, logs it out, or asks whether it is still valid (section
// 4.1).
type RegisterRequest struct {
	Version    int
	NodeKey    key.NodePublic
	OldNodeKey key.NodePublic `json:",omitzero"`
	Auth       *RegisterAuth  `json:",omitzero"`
	Expiry     time.Time      `json:",omitzero"` // in the past: log out
	Followup   string         `json:",omitzero"` // the AuthURL of the login to wait for
	Hostinfo   *Hostinfo      `json:",omitzero"`
	Ephemeral  bool           `json:",omitzero"`
}

// RegisterAuth carries a pre-auth key.
type RegisterAuth struct {
	AuthKey string `json:",omitzero"`
}

// RegisterResponse is the answer to a RegisterRequest (section 4.2).
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

// Login is a user's identity at an identity provider.
type Login struct {
	ID            int64  `json:",omitzero"`
	Provider      string `json:",omitzero"`
	LoginName     string
	DisplayName   string `json:",omitzero"`
	ProfilePicURL string `json:",omitzero"`
}

// UserProfile describes a user to other users.
type UserProfile struct {
	ID            int64
	LoginName     string
	DisplayName   string   `json:",omitzero"`
	ProfilePicURL string   `json:",omitzero"`
	Groups        []string `json:",omitzero"`
}

// CompressZstd is the only compression of map responses.
const CompressZstd = "zstd"

// MapRequest opens a map stream, or updates the server's record of the node (section 5.2).
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

// EndpointType says how a node learned one of its endpoints.
type EndpointType int

// Endpoint types (section 5.2).
const (
	EndpointUnknown       EndpointType = iota
	EndpointLocal                      // an address of an interface
	EndpointSTUN                       // the address and port that a STUN server sees
	EndpointPortMapped                 // mapped by a router on request (UPnP, NAT-PMP, PCP)
	EndpointSTUNLocalPort              // the address that a STUN server sees, with the local port
	EndpointConfigured
)

// MapResponse is one frame of a map stream (section 5.6).
type MapResponse struct {
	KeepAlive     bool         `json:",omitzero"`
	PingRequest   *PingRequest `json:",omitzero"`
	PopBrowserURL string       `json:",omitzero"`

	Node    *Node    `json:",omitzero"`
	DERPMap *DERPMap `json:",omitzero"`

	Peers             []*Node          `json:",omitzero"` // empty means the same as absent
	PeersChanged      []*Node          `json:",omitzero"`
	PeersRemoved      []int64          `json:",omitzero"`
	PeersChangedPatch []*PeerChange    `json:",omitzero"`
	PeerSeenChange    map[int64]bool   `json:",omitzero"`
	OnlineChange      map[int64]bool   `json:",omitzero"`
	DNSConfig         *DNSConfig       `json:",omitzero"`
	Domain            string           `json:",omitzero"`
	CollectServices   *bool            `json:",omitzero"`
	PacketFilter      []FilterRule     `json:",omitzero"` // the chunk "base" of PacketFilters; empty: it allows nothing
	PacketFilters     map[string]Rules `json:",omitzero"` // by chunk; see Rules
	UserProfiles      []UserProfile    `json:",omitzero"`

	Health          []string                   `json:",omitzero"`
	DisplayMessages map[string]*DisplayMessage `json:",omitzero"` // null deletes the message

	ControlTime     time.Time        `json:",omitzero"`
	Debug           *Debug           `json:",omitzero"`
	ControlDialPlan *ControlDialPlan `json:",omitzero"`
	ClientVersion   *ClientVersion   `json:",omitzero"`
}

// Rules are the rules of one chunk of a packet filter. In a MapResponse nil, written as null,
// deletes the chunk, and an empty list is a chunk without rules. The key "*" with null deletes all
// chunks before the other keys are applied.
type Rules []FilterRule

// MessageDuplicateKey is the ID of the display message by which our server tells a node that
// another process uses the node's key.
const MessageDuplicateKey = "duplicate-key"

// DisplayMessage is a message for the user (section 5.6).
type DisplayMessage struct {
	Title               string
	Text                string
	Severity            string         `json:",omitzero"` // high, medium or low
	ImpactsConnectivity bool           `json:",omitzero"`
	PrimaryAction       *DisplayAction `json:",omitzero"`
}

// DisplayAction is a page where the user can act on a DisplayMessage.
type DisplayAction struct {
	URL   string
	Label string
}

// Debug holds instructions to the client.
type Debug struct {
	SleepSeconds   float64 `json:",omitzero"`
	DisableLogTail bool    `json:",omitzero"`
	Exit           *int    `json:",omitzero"`
}

// ControlDialPlan lists addresses at which a client can try to reach the server.
type ControlDialPlan struct {
	Candidates []ControlIPCandidate `json:",omitzero"`
}

// ControlIPCandidate is one address of a ControlDialPlan.
type ControlIPCandidate struct {
	IP                netip.Addr `json:",omitzero"`
	ACEHost           string     `json:",omitzero"`
	DialStartDelaySec float64    `json:",omitzero"`
	DialTimeoutSec    float64    `json:",omitzero"`
	Priority          int        `json:",omitzero"`
}

// ClientVersion tells a client whether a newer version of its program exists.
type ClientVersion struct {
	RunningLatest        bool   `json:",omitzero"`
	LatestVersion        string `json:",omitzero"`
	UrgentSecurityUpdate bool   `json:",omitzero"`
	Notify               bool   `json:",omitzero"`
	NotifyURL            string `json:",omitzero"`
	NotifyText           string `json:",omitzero"`
}

// PingRequest asks the client to send a request to URL, perhaps with the result of a ping to the
// peer at IP (section 10.2).
type PingRequest struct {
	URL        string     `json:",omitzero"`
	URLIsNoise bool       `json:",omitzero"`
	Log        bool       `json:",omitzero"`
	Types      string     `json:",omitzero"`
	IP         netip.Addr `json:",omitzero"`
	Payload    []byte     `json:",omitzero"`
}

// PingResponse is the result of a ping to a peer.
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

// AdmitRequest is a relay's question whether it may serve a client (section 10.3, /verify).
type AdmitRequest struct {
	NodePublic key.NodePublic
	Source     netip.Addr
}

// AdmitResponse is the answer to an AdmitRequest.
type AdmitResponse struct{ Allow bool }
