package programs

import "testing"

// TestServerOldestClient proves that the oldest stock client that our server admits works together
// with the newest one and our node. It uses our relay with its pinned certificate and then the
// direct path, and its tailscale command can measure the relay and ping the others.
func TestServerOldestClient(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	m := newMesh(t, startOurServer(t, relay), relay)
	alpha := newGinnel(t, newHost(t, "alpha"))
	beta, gamma := newTailscaled(t, newHost(t, "beta")), newTailscaled(t, newHost(t, "gamma"))
	beta.release = oldest
	m.join(alpha, beta, gamma)
	m.exchange()
	m.awaitPaths("relay")
	checkOldest(t, beta)
	m.allowDirect()
	m.awaitPaths("direct")
	m.exchange()
	checkOldest(t, beta)
	m.withoutServer()
	m.restartNodes((*process).stop)
}

// checkOldest omits 'tailscale status', because that version warns there about its host's DNS
// settings, which it cannot read.
func checkOldest(t *testing.T, beta *tailscaled) {
	t.Helper()
	checkNetcheck(t, beta)
	checkPings(t, beta)
}
