package configs

import (
	"slices"
	"strings"
)

// amneziaKeys are what AmneziaWG has in [Interface] besides the keys of wg-quick, in small letters.
var amneziaKeys = []string{"jc", "jmin", "jmax", "s1", "s2", "s3", "s4", "h1", "h2", "h3", "h4",
	"i1", "i2", "i3", "i4", "i5", "j1", "j2", "j3", "itime"}

const amneziaReason = ": it belongs to AmneziaWG, which disguises WireGuard's messages so that WireGuard itself cannot " +
	"read them; ask the provider for a plain WireGuard file"

// unknownKey reports a key that wg-quick does not know. Of those of AmneziaWG, the first says what
// they are.
func (p *wgParser) unknownKey(e entry) {
	reason := ""
	if slices.Contains(amneziaKeys, strings.ToLower(e.key)) && !p.amnezia {
		p.amnezia, reason = true, amneziaReason
	}
	p.problems.add(e.keyAt, "%s is not known%s", named("key", e.key), reason)
}
