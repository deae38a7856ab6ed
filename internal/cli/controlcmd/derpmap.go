package controlcmd

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"ginnel/control"
	"ginnel/internal/cli"
	"ginnel/relay"
)

// embeddedRegion is the region ID of the server's own relay.
const embeddedRegion = 900

// readDERPMap reads the file of --derp-map, in the form that clients get.
func (o *serveOptions) readDERPMap() (relays control.DERPMap, err error) {
	b, err := os.ReadFile(o.derpMap)
	if err != nil {
		return relays, cli.Usagef("--derp-map: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&relays); err != nil {
		return relays, cli.Usagef("--derp-map %s: %w", o.derpMap, err)
	}
	var m relay.Map // which validates
	if err := json.Unmarshal(b, &m); err != nil {
		return relays, cli.Usagef("--derp-map %s: %w", o.derpMap, err)
	}
	if err := m.Validate(); err != nil {
		return relays, cli.Usagef("--derp-map %s: %w", o.derpMap, err)
	}
	switch _, taken := relays.Regions[embeddedRegion]; {
	case len(relays.Regions) == 0 && !o.embedded.Value:
		return relays, cli.Usagef("--derp-map %s: there is no relay in it, and --relay is none", o.derpMap)
	case taken && o.embedded.Value:
		return relays, cli.Usagef("--derp-map %s: region %d is that of the embedded relay; "+
			"use another number, or --relay none",
			o.derpMap, embeddedRegion)
	}
	return relays, nil
}

// useDERPMap reads the file of --derp-map again and sends it to all nodes. If the file is wrong, it
// logs that, and the old relays stay.
func (s *controlService) useDERPMap() {
	if s.options.derpMap == "" {
		return
	}
	var relays control.DERPMap
	err := cli.CheckRegular(s.options.derpMap)
	if err == nil {
		relays, err = s.options.readDERPMap()
	}
	if err != nil {
		s.log.Error("DERP map refused, the relays before it stay", "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), applyLimit)
	defer cancel()
	if err := s.ctl.SetDERPMap(ctx, s.derpMap(relays)); err != nil {
		s.log.Error("DERP map not taken", "err", err)
		return
	}
	s.log.Info("DERP map is in force", "file", s.options.derpMap, "regions", len(relays.Regions))
}

// derpMap adds the embedded relay to those of the file.
func (s *controlService) derpMap(m control.DERPMap) control.DERPMap {
	if !s.options.embedded.Value {
		return m
	}
	host := s.site.Hostname()
	n := &control.DERPNode{Name: "900a", RegionID: embeddedRegion, HostName: host, CertName: s.pin,
		DERPPort: sitePort(s.site), STUNPort: s.stunPort}
	// A host that is an address has one family, and clients know that (DERP specification, section
	// 1.10). "none" in the other's place is a name that 'tailscale debug derp' would look up.
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is4() {
		n.IPv4 = addr.String()
	} else if err == nil {
		n.IPv6 = addr.String()
	}
	regions := map[int]*control.DERPRegion{
		embeddedRegion: {RegionID: embeddedRegion, RegionCode: regionCode(s.site), RegionName: host,
			Nodes: []*control.DERPNode{n}},
	}
	for id, r := range m.Regions {
		regions[id] = r
	}
	m.Regions = regions
	return m
}

// regionCode is a short name for the relay's region: the first label of the URL's host, or of this
// one if that is an address.
func regionCode(site *url.URL) string {
	host := site.Hostname()
	if _, err := netip.ParseAddr(host); err == nil {
		host, _ = os.Hostname()
	}
	label, _, _ := strings.Cut(strings.ToLower(host), ".")
	return cmp.Or(label, fmt.Sprint(embeddedRegion))
}
