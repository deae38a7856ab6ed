package policy

import "ginnel/control"

// companions are the capabilities that clients need at the other end. Who may use a node as a
// relay, or the files that it shares, is told so by the capability itself; that node has to be told
// whom it serves by the companion, in the reverse direction.
var companions = map[string]string{
	"tailscale.com/cap/relay": "tailscale.com/cap/relay-target",
	"tailscale.com/cap/drive": "tailscale.com/cap/drive-sharer",
}

// companion returns the rule that goes with one of capabilities: its sources are the destinations
// of that, and the other way round. It is nil if no capability has a companion.
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
			who.kind = anyMember // whose they are, reverse.self says
		}
		reverse.src.who = append(reverse.src.who, who)
	}
	for _, who := range r.src.who {
		reverse.dst = append(reverse.dst, target{who: who})
	}
	return reverse
}
