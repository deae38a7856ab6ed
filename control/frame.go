package control

import (
	"maps"
	"slices"
	"time"
)

// Frame returns a frame by which a stream could begin that has told m, at a time of the client's
// clock: what the map says of nodes, relays, names and the policy. News for the user are left out.
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
