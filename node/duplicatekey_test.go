package node

import (
	"strings"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/internal/key"
)

// Streams that end once in a while give nobody away, and neither does a discovery key of before;
// many ends do, and a key that was ours and is another's now.
func TestDuplicateKey(t *testing.T) {
	now := time.Unix(1000, 0)
	var d duplicateKey
	for range 10 {
		d.streamEnded(now)
		now = now.Add(duplicateWindow*2/3 + time.Second)
	}
	if d.present(now) {
		t.Error("seldom ends are taken for a rival's")
	}
	d = duplicateKey{}
	for range duplicateEnds {
		now = now.Add(time.Second)
		d.streamEnded(now)
	}
	if !d.present(now) || !d.present(now.Add(duplicateWindow)) || d.present(now.Add(duplicateWindow+1)) {
		t.Error("many ends in a row")
	}
	ours, theirs := key.NewDiscoPrivate().Public(), key.NewDiscoPrivate().Public()
	d = duplicateKey{}
	d.shown(now, theirs, ours)
	d.shown(now, key.DiscoPublic{}, ours)
	if d.present(now) {
		t.Error("a key of before is taken for a rival's")
	}
	d.shown(now, ours, ours)
	d.shown(now, key.DiscoPublic{}, ours)
	if d.present(now) {
		t.Error("our own key is taken for a rival's")
	}
	d.shown(now, theirs, ours)
	if !d.present(now) {
		t.Error("another key in place of ours")
	}
}

// Two processes with one identity both say so, until one of them is gone.
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

// What the server has to say to the user is in the status, with what to do about it.
func TestMessagesOfTheServer(t *testing.T) {
	a := newNetwork(t).join("alpha")
	eventually(t, "alpha has joined", func() bool { return a.Status().State == StateRunning })
	// say has the server say so, until it sends the next map, which may be soon, and returns what is
	// shown of it.
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
				"a": {Title: "License", Text: "It ends soon.", PrimaryAction: &control.DisplayAction{URL: "https://x.example/pay", Label: "Pay"}},
			}
		})
		return len(got) == 2 && got[0].Text == "License: It ends soon." && got[0].Mend == "Pay: https://x.example/pay" && got[1].Text == "Second"
	})
}
