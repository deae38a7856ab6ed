package control

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"ginnel/internal/safetext"
)

const (
	baseChunk  = "base" // the chunk of PacketFilters that the field PacketFilter replaces
	allEntries = "*"    // the key that with a null value deletes every entry
)

// errNoSelf: the first frame of a stream has no Node (control specification, section 5.4).
var errNoSelf = errors.New("first map response lacks the node itself")

// NetMap is an immutable snapshot of the network map after a frame of a map stream. Snapshots of
// one stream share unchanged parts: a part has changed only if its pointer differs.
type NetMap struct {
	Self  *Node
	Peers []*Node // by ID, ascending; see Peer

	DERPMap         *DERPMap   // never nil; contains no nil regions
	DNS             *DNSConfig // nil: never sent
	Domain          string
	CollectServices bool
	Users           map[int64]UserProfile

	Filter  []FilterRule     // all rules; a packet that no rule allows is dropped
	Filters map[string]Rules // the same rules by chunk; contains no nil

	Health          []string
	DisplayMessages map[string]*DisplayMessage // takes precedence over Health

	ControlTime time.Time     // the server's clock when it was last sent
	ClockSkew   time.Duration // how far it was ahead of ours then

	BrowserURL    string           // to be opened once
	ClientVersion *ClientVersion   // nil: never sent
	DialPlan      *ControlDialPlan // nil: never sent
	Debug         *Debug           // nil: never sent
}

// Peer returns the peer with an ID, or nil.
func (m *NetMap) Peer(id int64) *Node {
	if i, ok := findNode(m.Peers, id); ok {
		return m.Peers[i]
	}
	return nil
}

// Apply returns the map after one more frame, received at now, and leaves m unchanged. A nil m is
// the start of a stream. The result shares memory with m and r; it is m itself if the frame changes
// nothing (control specification, section 5.5). Fields are applied in the order of tailscaled.
func (m *NetMap) Apply(r *MapResponse, now time.Time) (*NetMap, error) {
	if r.KeepAlive && (m == nil || !r.hasNews()) {
		return m, nil
	}
	next := &NetMap{DERPMap: &DERPMap{}}
	if m != nil {
		*next = *m
	}
	next.applyNews(r, now)
	if r.KeepAlive {
		return next, nil
	}
	if r.Node != nil {
		r.Node.normalize()
		next.Self = r.Node
	}
	if next.Self == nil {
		return nil, errNoSelf
	}
	if r.Debug != nil {
		next.Debug = r.Debug
	}
	next.Peers = applyPeers(next.Peers, r, now)
	next.applySettings(r)
	next.applyFilters(r)
	next.applyMessages(r)
	return next, nil
}

// Frame returns m as the first frame of a stream: nodes, relays, DNS and packet filter, without the
// messages for the user. now is the time on the client's clock. Apply of the frame to a nil NetMap
// gives these parts of m back; a node stores it to start while its server is down.
func (m *NetMap) Frame(now time.Time) *MapResponse {
	return &MapResponse{
		Node:          m.Self,
		Peers:         m.Peers,
		DERPMap:       m.DERPMap,
		DNSConfig:     m.DNS,
		Domain:        m.Domain,
		PacketFilters: m.Filters,
		UserProfiles:  slices.Collect(maps.Values(m.Users)),
		ControlTime:   now.Add(m.ClockSkew),
	}
}

// hasNews reports whether a keepalive frame carries one of the fields that count in keepalives.
func (r *MapResponse) hasNews() bool {
	return r.PopBrowserURL != "" || r.ClientVersion != nil || !r.ControlTime.IsZero() || r.ControlDialPlan != nil
}

// applyNews applies the fields that count in keepalive frames too.
func (m *NetMap) applyNews(r *MapResponse, now time.Time) {
	if r.PopBrowserURL != "" {
		m.BrowserURL = r.PopBrowserURL
	}
	if r.ClientVersion != nil {
		m.ClientVersion = r.ClientVersion
	}
	if !r.ControlTime.IsZero() {
		m.ControlTime = r.ControlTime
		m.ClockSkew = r.ControlTime.Sub(now)
	}
	if r.ControlDialPlan != nil {
		m.DialPlan = r.ControlDialPlan
	}
}

// applySettings applies relays, DNS, domain, service collection and user profiles.
func (m *NetMap) applySettings(r *MapResponse) {
	if r.DERPMap != nil {
		m.DERPMap = m.DERPMap.apply(r.DERPMap)
	}
	if r.DNSConfig != nil {
		m.DNS = r.DNSConfig
	}
	if r.Domain != "" {
		m.Domain = r.Domain
	}
	if r.CollectServices != nil {
		m.CollectServices = *r.CollectServices
	}
	if len(r.UserProfiles) > 0 {
		m.Users = cloneMap(m.Users)
		for _, u := range r.UserProfiles {
			m.Users[u.ID] = u
		}
	}
}

// apply returns the relay map after a delta.
func (d *DERPMap) apply(delta *DERPMap) *DERPMap {
	next := *d
	if delta.Regions != nil {
		next.Regions = maps.Clone(delta.Regions)
		next.OmitDefaultRegions = delta.OmitDefaultRegions
		maps.DeleteFunc(next.Regions, func(_ int, r *DERPRegion) bool { return r == nil })
		for id, region := range next.Regions {
			if slices.Contains(region.Nodes, nil) {
				clean := *region
				clean.Nodes = slices.DeleteFunc(slices.Clone(region.Nodes), func(n *DERPNode) bool { return n == nil })
				next.Regions[id] = &clean
			}
		}
	}
	if delta.HomeParams != nil && delta.HomeParams.RegionScore != nil {
		next.HomeParams = delta.HomeParams
	}
	return &next
}

// applyFilters applies PacketFilter and then PacketFilters.
func (m *NetMap) applyFilters(r *MapResponse) {
	if r.PacketFilter == nil && len(r.PacketFilters) == 0 {
		return
	}
	m.Filters = cloneMap(m.Filters)
	if r.PacketFilter != nil {
		m.Filters[baseChunk] = r.PacketFilter
	}
	if all, ok := r.PacketFilters[allEntries]; ok && all == nil {
		clear(m.Filters)
	}
	for name, rules := range r.PacketFilters {
		switch {
		case rules != nil:
			m.Filters[name] = rules
		case name != allEntries:
			delete(m.Filters, name)
		}
	}
	m.Filter = nil
	for _, name := range slices.Sorted(maps.Keys(m.Filters)) {
		m.Filter = append(m.Filter, m.Filters[name]...)
	}
}

// applyMessages applies the messages for the user, made safe to show.
func (m *NetMap) applyMessages(r *MapResponse) {
	if r.Health != nil {
		m.Health = make([]string, len(r.Health))
		for i, text := range r.Health {
			m.Health[i] = safetext.Line(text, maxMessage)
		}
	}
	if len(r.DisplayMessages) == 0 {
		return
	}
	m.DisplayMessages = cloneMap(m.DisplayMessages)
	if all, ok := r.DisplayMessages[allEntries]; ok && all == nil {
		clear(m.DisplayMessages)
	}
	for id, message := range r.DisplayMessages {
		shown := safetext.Line(id, maxMessage)
		switch {
		case message != nil:
			m.DisplayMessages[shown] = message.safe()
		case id != allEntries:
			delete(m.DisplayMessages, shown)
		}
	}
}

// safe returns a copy of m whose text is safe to show.
func (m *DisplayMessage) safe() *DisplayMessage {
	line := func(text string) string { return safetext.Line(text, maxMessage) }
	out := *m
	out.Title, out.Text = line(m.Title), line(m.Text)
	if m.PrimaryAction != nil {
		out.PrimaryAction = &DisplayAction{URL: line(m.PrimaryAction.URL), Label: line(m.PrimaryAction.Label)}
	}
	return &out
}

// cloneMap is maps.Clone, except that a nil map becomes an empty one.
func cloneMap[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return make(map[K]V)
	}
	return maps.Clone(m)
}

// normalize replaces the older form of fields by the newer one (section 5.7).
func (n *Node) normalize() {
	if n.HomeDERP == 0 {
		if region, ok := strings.CutPrefix(n.LegacyDERP, "127.3.3.40:"); ok {
			if id, err := strconv.Atoi(region); err == nil && id > 0 {
				n.HomeDERP = id
			}
		}
	}
	n.LegacyDERP = ""
	if n.AllowedIPs == nil {
		n.AllowedIPs = n.Addresses
	}
}
