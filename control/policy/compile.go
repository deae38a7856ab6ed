package policy

import (
	"crypto/sha256"
	"net/netip"
	"slices"

	"ginnel/control"
	"ginnel/internal/meshaddr"
)

// Compiled is a policy applied to a set of nodes. Compiling takes time in proportion to the number
// of nodes times the number of rules; a query takes time in proportion to its answer. A Compiled
// may be used concurrently.
//
// After a change of a node the server compiles again and compares the Sum of each node with the
// former one: only nodes whose sum differs need new rules.
type Compiled struct {
	members []*member
	index   map[int64]int // of members, by ID
	rules   []*rule
	attrs   []attributes
	senders []*senders // by rule; rules of one entry share them

	// A row for each member, a column for each rule: the member is a source of the rule, or a
	// destination.
	sends, receives bitMatrix

	// Bit sets of rules: those that make two members see each other, and those that do so only for
	// members of the same user. Grants of capabilities count too, because a capability at a node is
	// useless unless the node is in the map.
	forAll, forOwn []uint64

	shared    control.Rules // not nil: the rules of every node
	sharedSum Sum
}

// Sum is a hash of the rules of a node.
type Sum [sha256.Size]byte

// senders are the resolved sources of a rule, in the form of a packet filter.
type senders struct {
	spans []span
	names []string // the spans as a FilterRule writes them
	sum   Sum
	owned map[string]*senders // by user, the addresses of that user's nodes; nil unless a rule is for autogroup:self
}

// Compile applies the policy to the nodes. The slices of the nodes must not be changed afterwards.
func (p *Policy) Compile(nodes []Node) *Compiled {
	if p == nil {
		p = allowAll
	}
	c := &Compiled{
		members:  make([]*member, len(nodes)),
		index:    make(map[int64]int, len(nodes)),
		rules:    p.rules,
		attrs:    p.attrs,
		senders:  make([]*senders, len(p.rules)),
		sends:    newBitMatrix(len(nodes), len(p.rules)),
		receives: newBitMatrix(len(nodes), len(p.rules)),
	}
	for i, n := range nodes {
		c.members[i] = newMember(n)
		c.index[n.ID] = i
	}
	c.forAll, c.forOwn = make([]uint64, c.sends.width), make([]uint64, c.sends.width)
	find := newIndex(c.members)
	done := make(map[*sources]int) // the rule that has resolved them
	for i, r := range p.rules {
		c.addRule(i, r, find, done)
	}
	c.share()
	return c
}

// addRule resolves rule i. If done has another rule of the same entry, its resolved sources are
// used.
func (c *Compiled) addRule(i int, r *rule, find *index, done map[*sources]int) {
	for _, t := range r.dst {
		for m := range find.candidates(&t.who) {
			if r.at(&t.who, c.members[m]) {
				c.receives.set(m, i)
			}
		}
	}
	if first, ok := done[r.src]; ok {
		c.senders[i] = c.senders[first]
		c.sends.copy(first, i)
	} else {
		c.senders[i] = c.newSenders(i, r, find)
		done[r.src] = i
	}
	if !r.self {
		setBit(c.forAll, i)
		return
	}
	c.senders[i].byOwner(c.members, func(m int) bool { return c.sends.has(m, i) })
	setBit(c.forOwn, i)
}

// at reports whether who, a destination of the rule, selects something at the member. Passage can
// also be to addresses behind it; a capability is only for the node itself, because applications
// run there.
func (r *rule) at(who *selector, m *member) bool {
	if r.app == nil {
		return r.through(m) && who.receives(m)
	}
	return who.isAbout(m)
}

// through reports whether the rule's "via" allows the member as a router.
func (r *rule) through(m *member) bool {
	return r.via == nil || slices.ContainsFunc(r.via, func(tag string) bool { return slices.Contains(m.Tags, tag) })
}

func (c *Compiled) newSenders(i int, r *rule, find *index) *senders {
	var spans []span
	everything := false
	for _, who := range r.src.who {
		everything = everything || who.kind == everybody
		if who.kind == anything {
			spans = append(spans, c.meshAndRoutes()...)
		}
		if who.kind == addresses {
			spans = append(spans, who.span)
		}
		for m := range find.candidates(&who) {
			if !who.sends(c.members[m]) {
				continue
			}
			c.sends.set(m, i)
			if who.kind != addresses && who.kind != anything && who.kind != everybody {
				spans = append(spans, c.members[m].addrs...)
			}
		}
	}
	if everything { // autogroup:danger-all includes all other sources
		return &senders{spans: wholeSpace, names: []string{"*"}, sum: sumOf([]string{"*"})}
	}
	return sendersOf(spans)
}

// meshRanges are the default ranges of node addresses: IPv4, then IPv6.
var meshRanges = func() []span {
	v4, v6 := meshaddr.Ranges()
	return []span{prefixSpan(v4), prefixSpan(v6)}
}()

// meshAndRoutes returns what "*" means as a source: the addresses of the mesh and its approved
// routes.
func (c *Compiled) meshAndRoutes() []span {
	spans := slices.Clone(meshRanges)
	for _, m := range c.members {
		for _, a := range m.addrs {
			if !within(meshRanges, a.first) {
				spans = append(spans, a)
			}
		}
		for _, route := range m.Routes {
			if route.IsValid() && route.Bits() > 0 {
				spans = append(spans, prefixSpan(route))
			}
		}
	}
	return spans
}

var wholeSpace = []span{
	prefixSpan(netip.MustParsePrefix("0.0.0.0/0")),
	prefixSpan(netip.MustParsePrefix("::/0")),
}

func sendersOf(spans []span) *senders {
	spans = slices.Clip(merge(spans))
	names := make([]string, len(spans))
	for i, s := range spans {
		names[i] = s.String()
	}
	return &senders{spans: spans, names: names, sum: sumOf(names)}
}

func sumOf(names []string) Sum {
	h := sha256.New()
	for _, name := range names {
		h.Write(append([]byte(name), ' '))
	}
	return Sum(h.Sum(nil))
}

// byOwner sets owned.
func (s *senders) byOwner(members []*member, sends func(m int) bool) {
	if s.owned != nil {
		return
	}
	spans := make(map[string][]span)
	for i, m := range members {
		if m.owner != "" && sends(i) {
			spans[m.owner] = append(spans[m.owner], m.addrs...)
		}
	}
	s.owned = make(map[string]*senders, len(spans))
	for owner, theirs := range spans {
		s.owned[owner] = sendersOf(theirs)
	}
}

// of returns the senders that the rule allows at destination m, or nil if there are none.
func (s *senders) of(r *rule, m *member) *senders {
	if r.self {
		s = s.owned[m.owner]
	}
	if s == nil || len(s.names) == 0 {
		return nil
	}
	return s
}

// MaySee reports whether the policy allows a flow between two nodes in either direction, or grants
// one a capability at the other. Otherwise neither gets the other in its map.
func (c *Compiled) MaySee(a, b int64) bool {
	i, ok1 := c.index[a]
	j, ok2 := c.index[b]
	if !ok1 || !ok2 {
		return false
	}
	owner := c.members[i].owner
	own := owner != "" && owner == c.members[j].owner
	sendsA, sendsB, receivesA, receivesB := c.sends.row(i), c.sends.row(j), c.receives.row(i), c.receives.row(j)
	for w := range sendsA {
		flows := sendsA[w]&receivesB[w] | sendsB[w]&receivesA[w]
		if flows&c.forAll[w] != 0 || own && flows&c.forOwn[w] != 0 {
			return true
		}
	}
	return false
}

// share computes the rules once if all nodes have the same, as without a policy.
func (c *Compiled) share() {
	for _, r := range c.rules {
		if r.self || r.app != nil || slices.ContainsFunc(r.dst, func(t target) bool { return t.who.kind != anything }) {
			return
		}
	}
	c.sharedSum = c.sum(everyone)
	c.shared = c.rulesOf(everyone)
}
