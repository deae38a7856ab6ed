package control

import (
	"encoding/json"
	"net/netip"
	"time"

	"ginnel/key"
)

// Node is a node as a server describes it to itself or to its peers (section 5.7).
type Node struct {
	ID       int64
	StableID string
	Name     string // with a trailing dot
	User     int64  `json:",omitzero"`
	Sharer   int64  `json:",omitzero"`

	Key       key.NodePublic
	KeyExpiry time.Time         `json:",omitzero"`
	Machine   key.MachinePublic `json:",omitzero"`
	DiscoKey  key.DiscoPublic   `json:",omitzero"`

	Addresses  []netip.Prefix
	AllowedIPs []netip.Prefix   `json:",omitzero"` // nil: Addresses; empty: nothing
	Endpoints  []netip.AddrPort `json:",omitzero"`
	LegacyDERP string           `json:"DERP,omitzero"` // "127.3.3.40:REGION", used if HomeDERP is 0
	HomeDERP   int              `json:",omitzero"`

	Hostinfo      *Hostinfo      `json:",omitzero"`
	Created       time.Time      `json:",omitzero"`
	Cap           int            `json:",omitzero"`
	Tags          []string       `json:",omitzero"`
	PrimaryRoutes []netip.Prefix `json:",omitzero"`
	LastSeen      time.Time      `json:",omitzero"`
	Online        *bool          `json:",omitzero"` // nil: unknown

	MachineAuthorized bool   `json:",omitzero"`
	CapMap            CapMap `json:",omitzero"`
	Expired           bool   `json:",omitzero"`

	SelfNodeV4MasqAddrForThisPeer netip.Addr `json:",omitzero"`
	SelfNodeV6MasqAddrForThisPeer netip.Addr `json:",omitzero"`
	IsWireGuardOnly               bool       `json:",omitzero"`
	IsJailed                      bool       `json:",omitzero"`
	ExitNodeDNSResolvers          []Resolver `json:",omitzero"`
}

// CapMap maps attributes of a node, or capabilities of a peer, to their values.
type CapMap map[string][]json.RawMessage

// PeerChange changes single fields of a peer (section 5.5). A nil or zero field has not changed.
type PeerChange struct {
	NodeID     int64
	DERPRegion int              `json:",omitzero"`
	Cap        int              `json:",omitzero"`
	CapMap     CapMap           `json:",omitzero"`
	Endpoints  []netip.AddrPort `json:",omitzero"`
	Key        *key.NodePublic  `json:",omitzero"`
	DiscoKey   *key.DiscoPublic `json:",omitzero"`
	Online     *bool            `json:",omitzero"`
	LastSeen   *time.Time       `json:",omitzero"`
	KeyExpiry  *time.Time       `json:",omitzero"` // the zero time: the key no longer expires
}

// Hostinfo is a node's description of itself and its host (section 5.8). A server that passes it on
// drops fields that are not listed here.
type Hostinfo struct {
	IPNVersion      string         `json:",omitzero"`
	BackendLogID    string         `json:",omitzero"`
	OS              string         `json:",omitzero"`
	OSVersion       string         `json:",omitzero"`
	Container       *bool          `json:",omitzero"`
	Distro          string         `json:",omitzero"`
	DistroVersion   string         `json:",omitzero"`
	App             string         `json:",omitzero"`
	Desktop         *bool          `json:",omitzero"`
	Package         string         `json:",omitzero"`
	DeviceModel     string         `json:",omitzero"`
	Hostname        string         `json:",omitzero"`
	ShieldsUp       bool           `json:",omitzero"`
	NoLogsNoSupport bool           `json:",omitzero"`
	Machine         string         `json:",omitzero"`
	GoArch          string         `json:",omitzero"`
	GoVersion       string         `json:",omitzero"`
	RoutableIPs     []netip.Prefix `json:",omitzero"`
	RequestTags     []string       `json:",omitzero"`
	Services        []Service      `json:",omitzero"`
	NetInfo         *NetInfo       `json:",omitzero"`
	SSHHostKeys     []string       `json:"sshHostKeys,omitzero"`
	Userspace       *bool          `json:",omitzero"`
	UserspaceRouter *bool          `json:",omitzero"`
	AppConnector    *bool          `json:",omitzero"`
	StateEncrypted  *bool          `json:",omitzero"`
	Location        *Location      `json:",omitzero"`
}

// Service is a service that a node offers.
type Service struct {
	Proto       string
	Port        uint16
	Description string `json:",omitzero"`
}

// Location is the place of an exit node.
type Location struct {
	Country     string  `json:",omitzero"`
	CountryCode string  `json:",omitzero"`
	City        string  `json:",omitzero"`
	CityCode    string  `json:",omitzero"`
	Latitude    float64 `json:",omitzero"`
	Longitude   float64 `json:",omitzero"`
	Priority    int     `json:",omitzero"`
}

// NetInfo is a node's report about the network that it is in.
type NetInfo struct {
	MappingVariesByDestIP *bool              `json:",omitzero"`
	WorkingIPv6           *bool              `json:",omitzero"`
	OSHasIPv6             *bool              `json:",omitzero"`
	WorkingUDP            *bool              `json:",omitzero"`
	WorkingICMPv4         *bool              `json:",omitzero"`
	HavePortMap           bool               `json:",omitzero"`
	UPnP                  *bool              `json:",omitzero"`
	PMP                   *bool              `json:",omitzero"`
	PCP                   *bool              `json:",omitzero"`
	PreferredDERP         int                `json:",omitzero"` // the home relay's region
	LinkType              string             `json:",omitzero"`
	DERPLatency           map[string]float64 `json:",omitzero"` // seconds, by "REGION-v4" and "REGION-v6"
	FirewallMode          string             `json:",omitzero"`
}

// DERPMap lists the relays (section 5.6). In a MapResponse it is a delta: a nil field has not
// changed.
type DERPMap struct {
	HomeParams         *DERPHomeParams     `json:",omitzero"`
	Regions            map[int]*DERPRegion `json:",omitzero"`
	OmitDefaultRegions bool                `json:"omitDefaultRegions,omitzero"`
}

// DERPHomeParams weight the choice of a home region.
type DERPHomeParams struct {
	RegionScore map[int]float64 `json:",omitzero"` // by region; the measured latency is multiplied by it
}

// DERPRegion is a group of interchangeable relays.
type DERPRegion struct {
	RegionID        int
	RegionCode      string
	RegionName      string      `json:",omitzero"`
	Latitude        float64     `json:",omitzero"`
	Longitude       float64     `json:",omitzero"`
	Avoid           bool        `json:",omitzero"`
	NoMeasureNoHome bool        `json:",omitzero"`
	Nodes           []*DERPNode `json:",omitzero"`
}

// DERPNode is one relay (DERP specification, section 9).
type DERPNode struct {
	Name             string
	RegionID         int
	HostName         string
	CertName         string `json:",omitzero"`
	IPv4             string `json:",omitzero"`
	IPv6             string `json:",omitzero"`
	STUNPort         int    `json:",omitzero"`
	STUNOnly         bool   `json:",omitzero"`
	DERPPort         int    `json:",omitzero"`
	InsecureForTests bool   `json:",omitzero"`
	CanPort80        bool   `json:",omitzero"`
	STUNTestIP       string `json:",omitzero"`
}

// DNSConfig says how names are resolved (section 7.1).
type DNSConfig struct {
	Resolvers           []Resolver            `json:",omitzero"`
	Routes              map[string][]Resolver `json:",omitzero"`
	FallbackResolvers   []Resolver            `json:",omitzero"`
	Domains             []string              `json:",omitzero"`
	Proxied             bool                  `json:",omitzero"` // MagicDNS
	CertDomains         []string              `json:",omitzero"`
	ExtraRecords        []DNSRecord           `json:",omitzero"`
	ExitNodeFilteredSet []string              `json:",omitzero"`
}

// Resolver is a DNS server; Addr is an IP address, an address with a port, or a URL.
type Resolver struct {
	Addr                string       `json:",omitzero"`
	BootstrapResolution []netip.Addr `json:",omitzero"`
	UseWithExitNode     bool         `json:",omitzero"`
}

// DNSRecord is a DNS record that the network map itself contains. An empty Type means A or AAAA,
// depending on Value.
type DNSRecord struct {
	Name  string
	Type  string `json:",omitzero"`
	Value string
}

// FilterRule allows packets, or grants capabilities (section 6.1).
type FilterRule struct {
	SrcIPs   []string
	SrcBits  []int          `json:",omitzero"` // obsolete: a filter that uses it is refused
	DstPorts []NetPortRange `json:",omitzero"`
	IPProto  []int          `json:",omitzero"`
	CapGrant []CapGrant     `json:",omitzero"`
}

// NetPortRange is a set of addresses and ports.
type NetPortRange struct {
	IP    string
	Bits  *int `json:",omitzero"` // obsolete: a filter that uses it is refused
	Ports PortRange
}

// PortRange is a range of ports that includes both ends.
type PortRange struct{ First, Last uint16 }

// CapGrant grants capabilities of applications. It allows no packets.
type CapGrant struct {
	Dsts   []netip.Prefix `json:",omitzero"`
	Caps   []string       `json:",omitzero"`
	CapMap CapMap         `json:",omitzero"`
}
