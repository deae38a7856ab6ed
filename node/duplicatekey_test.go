package node

import (
	"strings"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/key"
)

// Streams that end now and then are no sign of a duplicate, nor is a discovery key of an earlier
// run. Many ends are a sign, and another discovery key after our own.
func TestDuplicateKey(t *testing.T) {
	now := time.Unix(1000, 0)
	var d duplicateKey
	for range 10 {
		d.streamEnded(now)
		now = now.Add(duplicateWindow*2/3 + time.Second)
	}
	if d.present(now) {
		t.Error("rare ends count as a sign of a duplicate")
	}
	d = duplicateKey{}
	for range duplicateEnds {
		now = now.Add(time.Second)
		d.streamEnded(now)
	}
	if !d.present(now) || !d.present(now.Add(duplicateWindow)) || d.present(now.Add(duplicateWindow+1)) {
		t.Error("many ends are no sign of a duplicate, or for another time than duplicateWindow")
	}
	ours, theirs := key.NewDiscoPrivate().Public(), key.NewDiscoPrivate().Public()
	d = duplicateKey{}
	d.shown(now, theirs, ours)
	d.shown(now, key.DiscoPublic{}, ours)
	if d.present(now) {
		t.Error("the key of an earlier run counts as a sign of a duplicate")
	}
	d.shown(now, ours, ours)
	d.shown(now, key.DiscoPublic{}, ours)
	if d.present(now) {
		t.Error("our own key counts as a sign of a duplicate")
	}
	d.shown(now, theirs, ours)
	if !d.present(now) {
		t.Error("another key after ours is no sign of a duplicate")
	}
}

// Two processes with one identity both report it, until one of them has ended.
func TestTwoProcessesWithOneKey(t *testing.T) {
	n := newNetwork(t)
	var kept Identity
	a := n.join("alpha", func(c *Config) { c.Control.Save = func(id Identity) error { kept = id; return nil } })
	eventually(t, "alpha has joined", func() bool { return a.Status().State == StateRunning })
	twin := n.join("alpha", func(c *Config) { c.Control.Identity, c.Control.AuthKey = kept, "" })
	for _, m := range []*member{a, twin} {
		eventually(t, "both have noticed", func() bool {
			h := m.health("duplicate-key")
			return strings.Contains(h.Text, "another process uses this node's key") && strings.Contains(h.Mend, "--state")
		})
	}
}

// Messages of the server to the user are in the status, with what to do about them.
func TestMessagesOfTheServer(t *testing.T) {
	a := newNetwork(t).join("alpha")
	eventually(t, "alpha has joined", func() bool { return a.Status().State == StateRunning })
	// say puts messages into the node's map, as if the server had sent them, and returns the issues
	// that the status has then. The next map, which may come soon, replaces them.
	say := func(change func(*control.NetMap)) (shown []HealthIssue) {
		m := a.Node.member
		m.mu.Lock()
		nm := *m.netmap
		change(&nm)
		m.netmap = &nm
		m.mu.Unlock()
		for _, h := range a.Status().Health {
			if h.Code == "control-message" {
				shown = append(shown, h)
			}
		}
		return shown
	}
	eventually(t, "the old way", func() bool {
		got := say(func(nm *control.NetMap) { nm.Health = []string{"the old way"} })
		return len(got) == 1 && got[0].Text == "the old way"
	})
	eventually(t, "the new way, sorted", func() bool {
		got := say(func(nm *control.NetMap) {
			nm.DisplayMessages = map[string]*control.DisplayMessage{
				"b": {Title: "Second"},
				"a": {Title: "License", Text: "It ends soon.",
					PrimaryAction: &control.DisplayAction{URL: "https://x.example/pay", Label: "Pay"}},
			}
		})
		return len(got) == 2 && got[0].Text == "License: It ends soon." && got[0].Mend == "Pay: https://x.example/pay" &&
			got[1].Text == "Second"
	})
}
