package policy

import "ginnel/control"

// companions maps capabilities to the one that clients need in the reverse direction. A node that
// may use a peer relay, or the files that a node shares, learns it by the capability; the relay or
// the sharer learns by the companion whom it serves.
var companions = map[string]string{
	"tailscale.com/cap/relay": "tailscale.com/cap/relay-target",
	"tailscale.com/cap/drive": "tailscale.com/cap/drive-sharer",
}

// companion returns the rule that grants the companions of r's capabilities, with sources and
// destinations exchanged. It is nil if no capability has a companion.
func (r *rule) companion() *rule {
	given := make(control.CapMap)
	for name := range r.app {
		if other, ok := companions[name]; ok {
			given[other] = nil // clients expect null here, not a list
		}
	}
	if len(given) == 0 {
		return nil
	}
	reverse := &rule{src: new(sources), self: r.self, app: given}
	for _, t := range r.dst {
		who := t.who
		if who.kind == self {
			who.kind = anyMember // reverse.self restricts it to the nodes of the same user
		}
		reverse.src.who = append(reverse.src.who, who)
	}
	for _, who := range r.src.who {
		reverse.dst = append(reverse.dst, target{who: who})
	}
	return reverse
}
