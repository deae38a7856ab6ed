package policy

import (
	"fmt"
	"strconv"
	"strings"

	"ginnel/control"

	"github.com/tailscale/hujson"
)

// role says where a selector stands in the file. Some words are valid only in some roles.
type role int

const (
	asSource role = iota
	asDestination
	asOwner  // of a tag, or as an approver
	asTarget // of attributes
	inTest
)

func (d *decoder) selectors(p *Policy, v hujson.Value, what string, as role) []selector {
	var all []selector
	for _, t := range d.texts(v, what) {
		all = append(all, d.expand(p, t, as)...)
	}
	return all
}

// expand parses a word that may stand for several selectors, as the name of an ipset does.
func (d *decoder) expand(p *Policy, t text, as role) (all []selector) {
	if strings.HasPrefix(t.string, "ipset:") && (as == asSource || as == asDestination || as == asTarget) {
		set, ok := p.sets[t.string]
		if !ok {
			d.problem(t.pos, "%q is not among the ipsets", t.string)
		}
		for _, s := range set {
			all = append(all, selector{kind: addresses, span: s})
		}
		return all
	}
	s, ok := d.selector(p, t, as)
	if !ok {
		return nil
	}
	if s.kind == user {
		d.nameUser(t)
	}
	if s.kind == group && len(s.users) == 0 {
		d.warn(t.pos, "%q has no users: here it stands for nobody", t.string)
	}
	return []selector{s}
}

// selector parses a word that selects nodes or addresses. Names that it refers to must be defined
// in the file.
func (d *decoder) selector(p *Policy, t text, as role) (selector, bool) {
	if t.string == "autogroup:members" {
		d.warn(t.pos, "%q is read as \"autogroup:member\"", t.string)
		t.string = "autogroup:member"
	}
	s, err := p.selector(t.string, as)
	if err != nil {
		d.problem(t.pos, "%v", err)
	}
	return s, err == nil
}

func (p *Policy) selector(word string, as role) (selector, error) {
	switch prefix, _, _ := strings.Cut(word, ":"); {
	case prefix == "group" && prefix != word:
		users, ok := p.groups[word]
		if !ok {
			return selector{}, fmt.Errorf("%q is not among the groups", word)
		}
		return selector{kind: group, users: users}, nil
	case prefix == "tag" && prefix != word:
		if _, ok := p.owners[word]; !ok {
			return selector{}, fmt.Errorf("%q is not among the tagOwners", word)
		}
		return selector{kind: tag, name: word}, nil
	case prefix == "autogroup" && prefix != word:
		return autogroup(word, as)
	case prefix == "svc" && prefix != word:
		return selector{}, fmt.Errorf("%q: there are no services here; name the tag or the address of the nodes "+
			"that serve it", word)
	case prefix == "host" && prefix != word:
		return selector{}, fmt.Errorf("%q: hosts are written without a prefix; write %q", word, word[len("host:"):])
	case prefix == "ipset" && prefix != word:
		return selector{}, fmt.Errorf("%q: a set of addresses can only be a source or a destination", word)
	case prefix == "user" && prefix != word, strings.HasPrefix(word, "*@"):
		return selector{}, fmt.Errorf("%q: users cannot be chosen by their domain; write \"autogroup:member\", "+
			"or a group with its users", word)
	case word == "*" && as == asOwner:
		return selector{}, fmt.Errorf("\"*\" has no meaning here; write \"autogroup:member\" and \"autogroup:tagged\"")
	case as == asOwner:
		if !isUser(word) {
			return selector{}, fmt.Errorf("%q is neither a user nor a group nor a tag", word)
		}
		return selector{kind: user, name: userName(word)}, nil
	case word == "*" && as != inTest:
		return selector{kind: anything}, nil
	case strings.Contains(word, "@"):
		if !isUser(word) {
			return selector{}, fmt.Errorf("%q is not a user", word)
		}
		return selector{kind: user, name: userName(word)}, nil
	}
	if s, ok := p.hosts[word]; ok {
		return selector{kind: addresses, span: s}, nil
	}
	if s, err := parseAddresses(word); err == nil || strings.Contains(word, "/") {
		return selector{kind: addresses, span: s}, err
	}
	if isUser(word) {
		return selector{}, fmt.Errorf("%q is neither an address nor among the hosts; a user is written %q", word, word+"@")
	}
	return selector{}, fmt.Errorf("%q is neither an address nor among the hosts", word)
}

func autogroup(word string, as role) (selector, error) {
	kinds := map[string]struct {
		kind kind
		in   []role
	}{
		"autogroup:member":   {anyMember, []role{asSource, asDestination, asOwner, asTarget}},
		"autogroup:tagged":   {anyTagged, []role{asSource, asDestination, asOwner, asTarget}},
		"autogroup:self":     {self, []role{asDestination}},
		"autogroup:internet": {exitInternet, []role{asDestination}},

		"autogroup:danger-all": {everybody, []role{asSource}},
	}
	known, ok := kinds[word]
	if ok {
		for _, place := range known.in {
			if place == as {
				return selector{kind: known.kind}, nil
			}
		}
		return selector{}, fmt.Errorf("%q has no meaning here", word)
	}
	switch word {
	case "autogroup:nonroot":
		return selector{}, fmt.Errorf("%q is for SSH rules, which are not supported", word)
	case "autogroup:shared":
		return selector{}, fmt.Errorf("%q: no nodes are shared with other networks here; name users, groups or tags", word)
	case "autogroup:admin", "autogroup:owner", "autogroup:it-admin", "autogroup:network-admin", "autogroup:billing-admin",
		"autogroup:auditor":
		_, role, _ := strings.Cut(word, ":")
		return selector{}, fmt.Errorf("%q is not supported: users have no roles here; write a group with the users, "+
			"such as %q", word, "group:"+role)
	}
	return selector{}, fmt.Errorf("%q is not supported", word)
}

// protocols maps names to IP protocol numbers. ICMP for IPv6 has a name and number of its own.
var protocols = map[string][]int{
	"icmp": {1}, "igmp": {2}, "ipv4": {4}, "ip-in-ip": {4}, "tcp": {6}, "egp": {8}, "igp": {9}, "udp": {17}, "gre": {47},
	"esp": {50}, "ah": {51}, "ipv6-icmp": {58}, "sctp": {132},
}

// parseProto parses the name or number of a protocol. For an empty text it returns nil, which means
// TCP, UDP and ICMP of both families.
func parseProto(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	if numbers, ok := protocols[strings.ToLower(s)]; ok {
		return numbers, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 256 {
		return []int{n}, nil
	}
	return nil, fmt.Errorf("%q is not a protocol: it must be a name like \"tcp\" or a number from 1 to 255", s)
}

// hasPorts reports whether all of the protocols have ports; protos is as in a rule.
func hasPorts(protos []int) bool {
	for _, p := range protos {
		if p != 6 && p != 17 && p != 132 {
			return false
		}
	}
	return true
}

// parsePorts parses "*", "80", "8000-8100", or a list of them with commas.
func parsePorts(s string) ([]control.PortRange, error) {
	if s == "*" {
		return allPorts, nil
	}
	var ranges []control.PortRange
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		switch {
		case err1 != nil || err2 != nil:
			return nil, fmt.Errorf("%q is not a port: it must be a number up to 65535, a range, or \"*\"", part)
		case first > last:
			return nil, fmt.Errorf("%q is not a range of ports: it ends before it begins", part)
		}
		ranges = append(ranges, control.PortRange{First: uint16(first), Last: uint16(last)})
	}
	return ranges, nil
}

// splitPorts splits "HOST:PORTS" at the last colon, so that an IPv6 address needs no brackets.
func splitPorts(s string) (host, ports string, err error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", fmt.Errorf("%q has no ports: it must be HOST:PORTS", s)
	}
	host, ports = s[:i], s[i+1:]
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if host, ok = strings.CutSuffix(inner, "]"); !ok {
			return "", "", fmt.Errorf("%q has a bracket that does not close", s)
		}
	}
	switch host {
	case "tag", "group", "autogroup":
		return "", "", fmt.Errorf("%q has no ports: it must be HOST:PORTS", s)
	}
	return host, ports, nil
}
