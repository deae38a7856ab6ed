package node

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// The proxy auto-configuration file has browsers use the proxy for the mesh only. Its size depends
// on the networks and domains of the mesh, not on the number of peers.

//go:embed proxy.js
var pacRules string

// pacPrefixes bounds the prefixes in the file. A browser compares each request with all of them.
const pacPrefixes = 256

// pacMesh is the data of the rules in proxy.js. Names are in lower case, without a dot at the end.
// With AllNames, only the mesh can resolve names, or it has a default route.
type pacMesh struct {
	Proxy    string         `json:"proxy"`
	AllNames bool           `json:"allNames"` // every name goes to the proxy
	Names    []string       `json:"names"`
	Domains  []string       `json:"domains"` // including the names below them
	Prefixes []netip.Prefix `json:"prefixes"`
	Host     []netip.Prefix `json:"host"` // never in the mesh, even if Prefixes contains it
}

// thisHost are the prefixes of this machine, which even a default route does not take: see
// routes.inMesh.
var thisHost = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func (a *localAPI) servePAC(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ns-proxy-autoconfig")
	fmt.Fprint(w, pacFile(r.Host, a.n.plane.netmap.Load()))
}

// pacFile writes a proxy auto-configuration for the proxy at hostPort.
func pacFile(hostPort string, m *NetworkMap) string {
	mesh := pacMesh{
		Proxy:    "SOCKS5 " + hostPort + "; PROXY " + hostPort,
		AllNames: len(m.DNS.Servers) > 0 || hasDefaultRoute(m),
		Names:    []string{},
		Prefixes: fewPrefixes(meshPrefixes(m), pacPrefixes),
		Host:     thisHost,
	}
	domains := map[string]bool{hostName(m.Domain): true}
	for _, d := range m.DNS.Search {
		domains[hostName(d)] = true
	}
	for d := range m.DNS.Routes {
		mesh.AllNames = mesh.AllNames || d == ""
		domains[hostName(d)] = true
	}
	for _, p := range m.Peers {
		name := hostName(p.Name)
		switch _, domain, dotted := strings.Cut(name, "."); {
		case !dotted: // a rule for all names without a dot covers it
		case strings.Contains(domain, "."): // the domain of another network
			domains[domain] = true
		default: // the domain is a top-level domain, which is not only the mesh's
			domains[name] = true
		}
	}
	for name := range m.DNS.Records {
		mesh.Names = append(mesh.Names, hostName(name))
	}
	slices.Sort(mesh.Names)
	mesh.Domains = slices.DeleteFunc(slices.Sorted(maps.Keys(domains)), func(d string) bool {
		_, parent, below := strings.Cut(d, ".")
		for below && !domains[parent] {
			_, parent, below = strings.Cut(parent, ".")
		}
		return d == "" || below || strings.HasSuffix(d, ".arpa") // no browser connects to names of addresses
	})
	b, _ := json.Marshal(mesh) // cannot fail for these types
	return "var mesh = " + string(b) + ";\n\n" + pacRules
}

// hasDefaultRoute reports whether a peer has a default route.
func hasDefaultRoute(m *NetworkMap) bool {
	return slices.ContainsFunc(m.Peers, func(p Peer) bool {
		return slices.ContainsFunc(p.Addresses, func(a netip.Prefix) bool { return a.Bits() == 0 })
	})
}

// fewPrefixes covers sorted prefixes by at most most prefixes. It may widen them; the proxy dials
// the addresses that are added on the host's network.
func fewPrefixes(prefixes []netip.Prefix, most int) []netip.Prefix {
	prefixes = aggregate(prefixes)
	for wide := 1; len(prefixes) > most; wide++ {
		for i, p := range prefixes {
			bits := min(p.Bits(), p.Addr().BitLen()-min(wide*p.Addr().BitLen()/32, p.Addr().BitLen()))
			prefixes[i] = netip.PrefixFrom(p.Addr(), bits).Masked()
		}
		prefixes = aggregate(prefixes)
	}
	return prefixes
}

// aggregate removes prefixes that others contain, and joins the two halves of a prefix.
func aggregate(sorted []netip.Prefix) (few []netip.Prefix) {
	for _, p := range sorted {
		if n := len(few); n > 0 && few[n-1].Overlaps(p) {
			continue // the last one contains it, because the prefixes are sorted by address and length
		}
		few = append(few, p)
		for len(few) > 1 {
			a, b := few[len(few)-2], few[len(few)-1]
			if a.Bits() != b.Bits() || a.Bits() == 0 || a.Addr().BitLen() != b.Addr().BitLen() {
				break
			}
			both := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
			if !both.Contains(b.Addr()) {
				break
			}
			few = append(few[:len(few)-2], both)
		}
	}
	return few
}
