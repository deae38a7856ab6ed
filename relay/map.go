package relay

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const (
	defaultPort      = 443
	defaultPlainPort = 80
	maxRegionID      = 1<<16 - 1 // tailscaled packs region ids into 16 bits (9.2)
	pinPrefix        = "sha256-raw:"
)

// Map lists the relays of a mesh by region. Its JSON is that of specification section 9.
type Map struct {
	HomeParams         *HomeParams `json:",omitempty"`
	Regions            map[int]*Region
	OmitDefaultRegions bool `json:"omitDefaultRegions,omitempty"` // for the control server; nodes only store it
}

// HomeParams adjusts the choice of the home region.
type HomeParams struct {
	// RegionScore multiplies the latency of a region: below 1 prefers the region, above 1 avoids
	// it. Values of 0 and less are ignored.
	RegionScore map[int]float64 `json:",omitempty"`
}

// Region is a set of relays close to each other and meshed with each other (9.2).
type Region struct {
	RegionID        int // the key in [Map.Regions]; 1 to 65535
	RegionCode      string
	RegionName      string
	Latitude        float64 `json:",omitempty"`
	Longitude       float64 `json:",omitempty"`
	Avoid           bool    `json:",omitempty"` // deprecated: left out of most measurements
	NoMeasureNoHome bool    `json:",omitempty"` // never measured, never a home; used to reach peers at home there
	Nodes           []*Node // in order of preference
}

// Node is one relay (9.3).
type Node struct {
	Name     string // unique over all regions
	RegionID int
	HostName string // DNS name or IP literal

	CertName         string `json:",omitempty"` // the name on the certificate, or "sha256-raw:" and its hash (1.4)
	IPv4             string `json:",omitempty"` // instead of DNS; any other text ("none") disables the family
	IPv6             string `json:",omitempty"` // likewise
	STUNPort         int    `json:",omitempty"` // 0 means 3478, negative none
	STUNOnly         bool   `json:",omitempty"`
	DERPPort         int    `json:",omitempty"` // 0 means 443
	InsecureForTests bool   `json:",omitempty"` // skips the certificate check
	STUNTestIP       string `json:",omitempty"`
	CanPort80        bool   `json:",omitempty"`
}

// RegionIDs returns the ids of all regions in ascending order.
func (m *Map) RegionIDs() []int {
	return slices.Sorted(maps.Keys(m.Regions))
}

// Validate returns all problems that make the map unusable, joined into one error.
func (m *Map) Validate() error {
	var errs []error
	names := make(map[string]int)
	for _, id := range m.RegionIDs() {
		r := m.Regions[id]
		if r == nil {
			errs = append(errs, fmt.Errorf("relay map: region %d is null", id))
			continue
		}
		if id != r.RegionID || id < 1 || id > maxRegionID {
			errs = append(errs, fmt.Errorf("relay map: region %d has RegionID %d, want the same from 1 to %d",
				id, r.RegionID, maxRegionID))
		}
		for i, n := range r.Nodes {
			if n == nil {
				errs = append(errs, fmt.Errorf("relay map: region %d: node %d is null", id, i))
				continue
			}
			if other, dup := names[n.Name]; dup {
				errs = append(errs, fmt.Errorf("relay map: region %d: node name %q is used in region %d too",
					id, n.Name, other))
			}
			names[n.Name] = id
			if err := n.validate(id); err != nil {
				errs = append(errs, fmt.Errorf("relay map: region %d: node %q: %w", id, n.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (n *Node) validate(region int) error {
	digits, pinned := strings.CutPrefix(n.CertName, pinPrefix)
	switch {
	case n.Name == "":
		return errors.New("a Name is missing")
	case n.RegionID != region:
		return fmt.Errorf("RegionID is %d", n.RegionID)
	case strings.ContainsFunc(n.Name, spaceOrControl): // the Name goes into a header
		return errors.New("the Name has spaces or control characters")
	case n.HostName == "" || strings.Contains(n.HostName, "/") || strings.ContainsFunc(n.HostName, spaceOrControl):
		return fmt.Errorf("HostName %q is not a host name", n.HostName)
	case n.DERPPort < 0 || n.DERPPort > 65535:
		return fmt.Errorf("DERPPort %d is not a port", n.DERPPort)
	case pinned && !isLowerHex(digits, 64):
		return fmt.Errorf("CertName %q is not %q and 64 lower-case hex digits", n.CertName, pinPrefix)
	}
	return nil
}

func spaceOrControl(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

func isLowerHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// port returns the TCP port of the node's relay.
func (n *Node) port() int {
	if n.DERPPort == 0 {
		return defaultPort
	}
	return n.DERPPort
}

// hostPort returns host, with the port unless that is the usual one, as in a Host header or a URL.
func hostPort(host string, port, usual int) string {
	if port != usual {
		return net.JoinHostPort(host, strconv.Itoa(port))
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is6() {
		return "[" + host + "]"
	}
	return host
}
