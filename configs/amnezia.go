package configs

import (
	"slices"
	"strings"
)

// amneziaKeys are the keys, in lower case, that AmneziaWG adds to [Interface].
var amneziaKeys = []string{"jc", "jmin", "jmax", "s1", "s2", "s3", "s4", "h1", "h2", "h3", "h4",
	"i1", "i2", "i3", "i4", "i5", "j1", "j2", "j3", "itime"}

// noteAmnezia adds one sentence to the errors about the keys of AmneziaWG, at the first of them.
func (p *wgParser) noteAmnezia(e entry) {
	if p.amnezia || !slices.Contains(amneziaKeys, strings.ToLower(e.key)) {
		return
	}
	p.amnezia = true
	p.problems.add(e.keyAt, "Jc, S1, H1 and the like belong to AmneziaWG, which disguises WireGuard's messages so that "+
		"WireGuard itself cannot read them; ask the provider for a plain WireGuard file")
}

// maxShortName is the length up to which an error repeats a name with digits. A name of six
// characters reveals too little of a secret key to be of use.
const maxShortName = 6

// isShortName reports whether name consists of at most maxShortName letters and digits.
func isShortName(name string) bool {
	isOther := func(r rune) bool {
		lower := r | 0x20
		return (lower < 'a' || lower > 'z') && (r < '0' || r > '9')
	}
	return len(name) <= maxShortName && !strings.ContainsFunc(name, isOther)
}
