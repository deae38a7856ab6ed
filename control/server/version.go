package server

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"ginnel/control"
)

const (
	// A CertName with pinPrefix pins the certificate of a relay. pinVersion is the first capability
	// version whose clients can check the pin (tailscale 1.84). Older clients would join and then
	// reach no relay: 1.80 takes the pin for a host name, and 1.82 rejects the relay's key
	// certificate that follows the pinned one.
	pinPrefix  = "sha256-raw:"
	pinVersion = 116
)

// versionCheck knows which capability versions clients may have. The zero value assumes that no
// relay's certificate is pinned.
type versionCheck struct {
	pinned atomic.Bool // at least one relay's certificate is pinned
}

// setRelays takes the relay map that clients are sent.
func (v *versionCheck) setRelays(m *control.DERPMap) {
	pinned := false
	for _, r := range m.Regions {
		for _, n := range r.Nodes {
			pinned = pinned || n != nil && strings.HasPrefix(n.CertName, pinPrefix)
		}
	}
	v.pinned.Store(pinned)
}

// least returns the lowest capability version that is accepted.
func (v *versionCheck) least() int {
	if v.pinned.Load() {
		return pinVersion
	}
	return control.MinCapabilityVersion
}

// supported answers 400 to a client that is too old, and returns false.
func (v *versionCheck) supported(w http.ResponseWriter, version int) bool {
	least, hint := v.least(), ""
	if version >= least {
		return true
	}
	if version >= control.MinCapabilityVersion {
		hint = " (the certificate of a relay is pinned, which older clients cannot check: upgrade to tailscale 1.84, " +
			"or give the server a certificate of an authority, by --acme or --cert)"
	}
	text := fmt.Sprintf("unsupported client version: %v%s", &control.VersionError{Version: version, Min: least}, hint)
	http.Error(w, text, http.StatusBadRequest)
	return false
}
