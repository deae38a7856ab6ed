package configs

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// DNS is the DNS settings of a mesh, which the coordination server sends to all nodes.
type DNS struct {
	// Nameservers are asked, in this order, for all names outside the mesh. Empty: each node asks its
	// own. An element is an IP address, an address with a port, or the https:// URL of a
	// DNS-over-HTTPS server.
	Nameservers []string
	// Fallback are asked instead by nodes that have no nameservers of their own.
	Fallback []string
	// Split maps domains to nameservers that are asked for names in them. A domain without nameservers
	// has only the names in Records.
	Split map[string][]string
	// Search are the domains that are appended to names without a dot, after the mesh's own domain.
	Search []string
	// Records are further names in the mesh.
	Records []DNSRecord
}

// DNSRecord is a name with one address. A name with several addresses has several records.
type DNSRecord struct {
	Name string
	Addr netip.Addr
}

// LoadDNS reads and parses the YAML file of --dns-config; see [ParseDNS].
func LoadDNS(path string) (DNS, error) {
	b, err := readFile(path, maxYAML)
	if err != nil {
		return DNS{}, err
	}
	return ParseDNS(path, b)
}

// ParseDNS parses b, the contents of the file called name: a YAML mapping with the keys
// nameservers, fallback-nameservers, split, search-domains and records. It is as strict as [Parse].
// An error is of type Problems.
func ParseDNS(name string, b []byte) (DNS, error) {
	r := dnsReader{yamlReader: yamlReader{file: name}}
	keys := []string{"nameservers", "fallback-nameservers", "split", "search-domains", "records"}
	if err := r.read(b, keys, r.setting); err != nil {
		return DNS{}, err
	}
	return r.dns, nil
}

type dnsReader struct {
	yamlReader
	dns DNS
}

func (r *dnsReader) setting(key string, at Position, value ast.Node) {
	switch key {
	case "nameservers":
		r.dns.Nameservers = r.nameservers(key, value)
	case "fallback-nameservers":
		r.dns.Fallback = r.nameservers(key, value)
	case "split":
		r.split(at, value)
	case "search-domains":
		r.dns.Search = r.domains(key, value)
	case "records":
		r.records(at, value)
	}
}

// nameservers reads a list of nameservers, which may be empty.
func (r *dnsReader) nameservers(path string, node ast.Node) (list []string) {
	for _, v := range r.values(path, List, node) {
		if !isNameserver(v.Text) {
			r.problems.add(v.At, "%s: %s is neither an IP address, one with a port, nor an https:// URL", path, quote(v.Text))
			continue
		}
		list = append(list, v.Text)
	}
	return list
}

func isNameserver(s string) bool {
	if u, err := url.Parse(s); err == nil && u.Scheme == "https" {
		return u.Hostname() != "" && u.User == nil
	}
	a, err := netip.ParseAddr(s)
	if ap, err2 := netip.ParseAddrPort(s); err2 == nil {
		a, err = ap.Addr(), nil
	}
	return err == nil && a.Zone() == "" && !a.IsUnspecified()
}

func (r *dnsReader) split(at Position, node ast.Node) {
	body, ok := node.(ast.MapNode)
	if !ok {
		r.problems.add(at, "split: is not a mapping of domains to lists of nameservers")
		return
	}
	r.dns.Split = make(map[string][]string)
	r.mapping(body, nil, func(key string, at Position, value ast.Node) {
		domain, ok := r.domain(Value{key, at}, "split")
		if ok {
			r.dns.Split[domain] = r.nameservers("split."+key, value)
		}
	})
}

func (r *dnsReader) domains(path string, node ast.Node) (list []string) {
	for _, v := range r.values(path, List, node) {
		if domain, ok := r.domain(v, path); ok {
			list = append(list, domain)
		}
	}
	return list
}

// domain checks a domain name and returns it in lower case, without a final dot.
func (r *dnsReader) domain(v Value, path string) (name string, ok bool) {
	if err := checkName(v.Text); err != nil {
		r.problems.add(v.At, "%s: %v", path, err)
		return "", false
	}
	return strings.ToLower(strings.TrimSuffix(v.Text, ".")), true
}

func (r *dnsReader) records(at Position, node ast.Node) {
	list, ok := node.(*ast.SequenceNode)
	if !ok {
		r.problems.add(at, "records: is not a list of name and value")
		return
	}
	for _, item := range list.Values {
		r.record(item)
	}
}

// record reads one record: a name, a value and an optional type.
func (r *dnsReader) record(node ast.Node) {
	body, ok := node.(ast.MapNode)
	if !ok {
		r.problems.add(r.at(node), "records: is not a mapping with the keys name and value")
		return
	}
	given := make(map[string]Value)
	r.mapping(body, []string{"name", "value", "type"}, func(key string, _ Position, value ast.Node) {
		if values := r.values("records."+key, Scalar, value); len(values) == 1 {
			given[key] = values[0]
		}
	})
	for _, key := range []string{"name", "value"} {
		if _, ok := given[key]; !ok {
			r.problems.add(r.at(node), "records: %s is missing", key)
			return
		}
	}
	name, ok := r.domain(given["name"], "records.name")
	value, kind := given["value"], given["type"]
	addr, err := netip.ParseAddr(value.Text)
	types := []string{"", "A"}
	if addr.Is6() {
		types[1] = "AAAA"
	}
	switch {
	case !ok:
	case err != nil || addr.Zone() != "":
		r.problems.add(value.At, "records.value: %s is not an IP address; other records are not supported", quote(value.Text))
	case !slices.Contains(types, kind.Text):
		r.problems.add(kind.At, "records.type: %s is not the type of %s, which is %s", quote(kind.Text), addr, types[1])
	default:
		r.dns.Records = append(r.dns.Records, DNSRecord{name, addr})
	}
}
