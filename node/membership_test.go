package node

import "testing"

// A node that has just started does not tell the server that it has no home: peers would lose the relay by which they
// reached it before, and could not answer.
func TestRequestBeforeHome(t *testing.T) {
	n := newNetwork(t)
	a := n.join("alpha", func(c *Config) { c.Control.URL = "http://127.0.0.1:1" })
	if info := a.member.request().Hostinfo.NetInfo; info != nil {
		t.Errorf("without a home the server is told %+v", info)
	}
	b := n.join("beta")
	eventually(t, "beta has joined", func() bool { return b.Status().State == StateRunning })
	if info := b.member.request().Hostinfo.NetInfo; info == nil || info.PreferredDERP == 0 {
		t.Errorf("with a home the server is told %+v", info)
	}
}
