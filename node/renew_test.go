package node

import (
	"fmt"
	"strings"
	"testing"
)

// A node whose key expires waits until somebody lets it in again, its pre-auth key notwithstanding,
// and takes a new key then. It keeps its address and name, and is reached by those who knew it.
func TestKeyExpires(t *testing.T) {
	n := newNetwork(t)
	a, b := n.join("alpha"), n.join("beta")
	b.serveHTTP(80, "beta")
	eventually(t, "alpha knows beta", func() bool { return len(a.Status().Peers) == 1 })
	if got, err := a.get("http://beta/"); got != "beta" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	before := b.Status().Self
	n.admin("POST", "/api/v1/nodes/"+b.id()+"/expire", "{}")
	var page string
	eventually(t, "beta waits to be let in", func() bool {
		s := b.Status()
		_, page, _ = strings.Cut(s.Reason, "approved at ")
		return s.State == StateNeedsLogin && page != ""
	})
	if _, err := n.srv.ApproveLogin(t.Context(), page[strings.LastIndex(page, "/")+1:], "ann"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "beta has another key", func() bool {
		return b.Status().Self.NodeKey != before.NodeKey &&
			b.Status().State == StateRunning
	})
	if after := b.Status().Self; fmt.Sprint(after.Addresses) != fmt.Sprint(before.Addresses) || after.Name != before.Name {
		t.Errorf("came back as %+v, was %+v", after, before)
	}
	eventually(t, "alpha knows beta's new key", func() bool {
		peers := a.Status().Peers
		return len(peers) == 1 && peers[0].NodeKey == b.Status().Self.NodeKey
	})
	if got, err := a.get("http://beta/"); got != "beta" || err != nil {
		t.Errorf("after the change of keys: %q, %v", got, err)
	}
}

// A node whose key expires comes back by itself when an administrator makes the key valid again,
// now or later, and the page where it could have been let in meanwhile does not count any more.
func TestKeyIsValidAgain(t *testing.T) {
	for _, again := range []string{`{"never": true}`, `{"at": "2126-01-01T00:00:00Z"}`} {
		n := newNetwork(t)
		var saved Identity
		a := n.join("alpha")
		b := n.join("beta", func(c *Config) { c.Control.Save = func(id Identity) error { saved = id; return nil } })
		b.serveHTTP(80, "beta")
		eventually(t, "alpha knows beta", func() bool { return len(a.Status().Peers) == 1 })
		if got, err := a.get("http://beta/"); got != "beta" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		before := b.Status().Self
		n.admin("POST", "/api/v1/nodes/"+b.id()+"/expire", "{}")
		eventually(t, "beta waits to be let in", func() bool {
			s := b.Status()
			return s.State == StateNeedsLogin && strings.Contains(s.Reason, "approved at ") && len(s.Peers) == 0
		})
		if v := b.Why(t.Context(), ""); v.Broken != StepLogin || !strings.Contains(v.Text, "the node's key has expired") {
			t.Errorf("verdict %+v", v)
		}
		var codes []string
		for _, issue := range b.Status().Health {
			codes = append(codes, issue.Code)
		}
		if got := strings.Join(codes, " "); got != "key-expired" {
			t.Errorf("health %q, want key-expired alone", got)
		}
		n.admin("POST", "/api/v1/nodes/"+b.id()+"/expire", again)
		eventually(t, "beta is back", func() bool { s := b.Status(); return s.State == StateRunning && len(s.Peers) == 1 })
		if after := b.Status(); after.Self.NodeKey != before.NodeKey || len(after.Health) != 0 {
			t.Errorf("came back as %+v with %v, was %+v", after.Self, after.Health, before)
		}
		if !saved.Next.IsZero() {
			t.Error("the key that was not needed is kept")
		}
		eventually(t, "alpha knows beta again", func() bool { return len(a.Status().Peers) == 1 })
		if got, err := a.get("http://beta/"); got != "beta" || err != nil {
			t.Errorf("after the key was made valid again: %q, %v", got, err)
		}
	}
}

// A login that succeeds while the node is down is not lost: the node comes back by the key that was
// let in.
func TestLetInWhileDown(t *testing.T) {
	n := newNetwork(t)
	var saved Identity
	keep := func(c *Config) { c.Control.Save = func(id Identity) error { saved = id; return nil } }
	b := n.join("beta", keep)
	before := b.id()
	n.admin("POST", "/api/v1/nodes/"+before+"/expire", "{}")
	var page string
	eventually(t, "beta waits to be let in", func() bool {
		_, page, _ = strings.Cut(b.Status().Reason, "approved at ")
		return page != ""
	})
	b.Close()
	if _, err := n.srv.ApproveLogin(t.Context(), page[strings.LastIndex(page, "/")+1:], "ann"); err != nil {
		t.Fatal(err)
	}
	next, left := saved.Next.Public(), saved
	c := n.join("beta", keep, func(c *Config) { c.Control.Identity, c.Control.AuthKey = saved, "" })
	eventually(t, "beta is back", func() bool { return c.Status().State == StateRunning })
	if got := c.Status().Self.NodeKey; got != next || c.id() != before || !saved.Next.IsZero() {
		t.Errorf("came back by %v as node %s, want %v and %s", got, c.id(), next, before)
	}
	c.Close()
	cfg := c.cfg
	cfg.Control.Identity = left
	if err := GiveUp(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	d := n.join("beta", func(c *Config) { c.Control.Identity, c.Control.AuthKey = saved, "" })
	eventually(t, "the node was given up by either key", func() bool { return d.Status().State == StateNeedsLogin })
}
