package server

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"ginnel/control"
)

const (
	// pinPrefix begins a CertName that pins a relay's certificate, and pinVersion is the least
	// capability version whose clients can check it (tailscale 1.84). Older ones could join and then
	// reach no relay: 1.80 takes the pin for a host name, and 1.82 refuses the certificate with the
	// relay's key that follows the pinned one.
	pinPrefix  = "sha256-raw:"
	pinVersion = 116
)

// versionCheck knows which versions of the protocol clients may speak. The zero value is of a
// server without pinned relays.
type versionCheck struct {
	pinned atomic.Bool // the certificate of a relay is pinned
}

// setRelays takes the relays that clients are told of.
func (v *versionCheck) setRelays(m *control.DERPMap) {
	pinned := false
	for _, r := range m.Regions {
		for _, n := range r.Nodes {
			pinned = pinned || n != nil && strings.HasPrefix(n.CertName, pinPrefix)
		}
	}
	v.pinned.Store(pinned)
}

// least is the lowest capability version that a client may speak.
func (v *versionCheck) least() int {
	if v.pinned.Load() {
		return pinVersion
	}
	return control.MinCapabilityVersion
}

// supported answers 400 to a client that is too old.
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
