package control

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// baseChunk is the chunk of PacketFilters that PacketFilter stands for, and allEntries the key that
// means every one.
const (
	baseChunk  = "base"
	allEntries = "*"
)

// errNoSelf is a stream that does not begin as it has to (control specification, section 5.4).
var errNoSelf = errors.New("first map response lacks the node itself")

// NetMap is what a stream has told so far: a snapshot that nobody changes. Snapshots of one stream
// share what has not changed from one to the next, so that pointers tell what has.
type NetMap struct {
	Self  *Node
	Peers []*Node // by ID, ascending; see Peer

	DERPMap         *DERPMap   // never nil; without nil regions
	DNS             *DNSConfig // nil: the server said nothing of it
	Domain          string
	CollectServices bool
	Users           map[int64]UserProfile

	Filter  []FilterRule     // all rules; a packet that none lets in stays out
	Filters map[string]Rules // the same rules by chunk, none nil

	Health          []string
	DisplayMessages map[string]*DisplayMessage // takes precedence over Health

	ControlTime time.Time     // the server's clock when it was last told
	ClockSkew   time.Duration // what it was ahead of ours then

	BrowserURL    string           // to be opened once
	ClientVersion *ClientVersion   // nil: nothing said
	DialPlan      *ControlDialPlan // nil: nothing said
	Debug         *Debug           // nil: nothing said
}

// Peer returns the peer with an ID, or nil.
func (m *NetMap) Peer(id int64) *Node {
	if i, ok := findNode(m.Peers, id); ok {
		return m.Peers[i]
	}
	return nil
}

// Apply returns the map after one more frame, received at now; m itself stays as it was. A nil m is
// the beginning of a stream. The result shares memory with m and r, and is m if the frame changes
// nothing at all (control specification, section 5.5). It keeps to the order of tailscaled.
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

// hasNews reports whether a keepalive frame says more than that.
func (r *MapResponse) hasNews() bool {
	return r.PopBrowserURL != "" || r.ClientVersion != nil || !r.ControlTime.IsZero() || r.ControlDialPlan != nil
}

// applyNews applies what counts in keepalive frames too.
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

// applySettings applies what is replaced as a whole, or nearly.
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

// apply returns the relays after a delta.
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

// applyMessages applies what the user is to be told.
func (m *NetMap) applyMessages(r *MapResponse) {
	if r.Health != nil {
		m.Health = make([]string, len(r.Health))
		for i, text := range r.Health {
			m.Health[i] = printable(text)
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
		switch {
		case message != nil:
			m.DisplayMessages[printable(id)] = message.printable()
		case id != allEntries:
			delete(m.DisplayMessages, id)
		}
	}
}

// printable is m without what a terminal must not get.
func (m *DisplayMessage) printable() *DisplayMessage {
	out := *m
	out.Title, out.Text = printable(m.Title), printable(m.Text)
	if m.PrimaryAction != nil {
		out.PrimaryAction = &DisplayAction{URL: printable(m.PrimaryAction.URL), Label: printable(m.PrimaryAction.Label)}
	}
	return &out
}

// cloneMap is maps.Clone that makes an empty map of a nil one.
func cloneMap[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return make(map[K]V)
	}
	return maps.Clone(m)
}

// normalize gives a node the newer form of what has two (section 5.7).
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
