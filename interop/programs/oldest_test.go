package programs

import "testing"

// TestServerOldestClient proves that the oldest stock client that our server admits joins it beside
// the newest one and a node of ours, uses our relay with its pinned certificate, and then goes
// directly, and that its tailscale command can measure the relay and ping the others.
func TestServerOldestClient(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	m := newMesh(t, startOurServer(t, relay), relay)
	alpha := newGinnel(t, newHost(t, "alpha"))
	beta, gamma := newTailscaled(t, newHost(t, "beta")), newTailscaled(t, newHost(t, "gamma"))
	beta.release = oldest
	m.join(alpha, beta, gamma)
	m.exchange()
	m.take("relay")
	checkOldest(t, beta)
	m.unlock(true)
	m.take("direct")
	m.exchange()
	checkOldest(t, beta)
	m.withoutServer()
	m.restartNodes((*process).stop)
}

// checkOldest leaves out 'tailscale status': that version complains there of the DNS settings of
// its own host, which it cannot read.
func checkOldest(t *testing.T, beta *tailscaled) {
	t.Helper()
	checkNetcheck(t, beta)
	checkPings(t, beta)
}
