package server

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/key"
)

// logBuffer collects the log of a server.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func withLog(l *logBuffer) func(*Config) {
	return func(c *Config) { c.Log = slog.New(slog.NewTextHandler(l, nil)) }
}

// staysConnected keeps a stream open as the node program does: it sends an update, and reconnects
// when the stream ends.
func (p *peer) staysConnected() {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	p.wg.Go(func() {
		for ctx.Err() == nil {
			p.wg.Go(func() { p.Update(ctx, p.mapRequest()) })
			p.follow(ctx, p.Client, p.mapRequest())
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	})
}

// copyOf returns another process with the keys of a node, on another host.
func (n *testNet) copyOf(p *peer, hostname string) *peer {
	c := n.newPeer(hostname)
	c.machine, c.node, c.disco = p.machine, p.node, key.NewDiscoPrivate().Public()
	c.Close()
	c.dial()
	return c
}

const duplicateKeyWarning = "two processes use the key of one node"

// Two processes with one key take the stream from each other. The log, the API, the metrics and
// both processes report it. Other nodes receive no message and few frames.
func TestDuplicateKey(t *testing.T) {
	log := new(logBuffer)
	onNet(t, withLog(log), func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		watcher, a := n.join("watcher", k), n.join("laptop", k)
		a.endStream()
		a.staysConnected()
		settle()
		b := n.copyOf(a, "vm")
		_, before := watcher.latestMap()
		b.staysConnected()
		time.Sleep(time.Hour)
		settle()
		if got := log.count(duplicateKeyWarning); got != 1 {
			t.Errorf("%d warnings in one hour, want 1", got)
		}
		if log.count("node=laptop remote=")+log.count("node=vm remote=") != 1 {
			t.Error("the warning has no node and addresses")
		}
		_, after := watcher.latestMap()
		if frames := after - before; frames > 300 { // the stream changes hands 120 times
			t.Errorf("another node received %d frames in one hour", frames)
		}
		var names []string
		for _, node := range n.nodes() {
			if node.Contested {
				names = append(names, node.Name)
			}
		}
		if len(names) != 1 || n.server.core.countDuplicateKeys() != 1 {
			t.Errorf("API and metrics: nodes with a duplicate key: %v, want 1", names)
		}
		for _, p := range []*peer{a, b} {
			if m, _ := p.latestMap(); !warned(m) {
				t.Errorf("%s received the health messages %q and %v", p.host.Hostname, m.Health, m.DisplayMessages)
			}
		}
		if m, _ := watcher.latestMap(); len(m.Health)+len(m.DisplayMessages) > 0 {
			t.Errorf("another node received the health messages %q", m.Health)
		}
		b.endStream()
		time.Sleep(duplicateKeyLife + takeoverInterval)
		settle()
		if m, _ := a.latestMap(); len(m.Health)+len(m.DisplayMessages) > 0 || n.server.core.countDuplicateKeys() != 0 {
			t.Errorf("after the duplicate ended: health messages %q", m.Health)
		}
		seen := watcher.sees("laptop")
		if !online(seen) || seen.DiscoKey != a.disco || n.node("laptop").Contested {
			t.Errorf("after the duplicate ended: the node is seen as %+v", seen)
		}
	})
}

// warned reports whether a node was told that another process uses its key.
func warned(m *control.NetMap) bool {
	d := m.DisplayMessages[control.MessageDuplicateKey]
	return d != nil && strings.Contains(d.Text, "another process")
}

// Clients that do not know display messages receive health texts instead. Both kinds are withdrawn
// when the duplicate has ended.
func TestHealthOfOldClients(t *testing.T) {
	for _, c := range []struct {
		version          int
		duplicateKey     *duplicateKey
		health, messages int
	}{
		{displayVersion - 1, nil, 0, 0}, {displayVersion - 1, &duplicateKey{otherHost: "192.0.2.1"}, 1, 0},
		{displayVersion, nil, 0, 1}, {displayVersion, &duplicateKey{otherHost: "192.0.2.1"}, 0, 1},
	} {
		n := &node{rec: &nodeRecord{Cap: c.version}, duplicateKey: c.duplicateKey}
		var resp control.MapResponse
		n.appendHealth(&resp)
		if len(resp.Health) != c.health || len(resp.DisplayMessages) != c.messages {
			t.Errorf("version %d: got %q and %v", c.version, resp.Health, resp.DisplayMessages)
		}
		if c.messages > 0 && (resp.DisplayMessages[control.MessageDuplicateKey] != nil) != (c.duplicateKey != nil) {
			t.Errorf("version %d: got %v", c.version, resp.DisplayMessages)
		}
		if c.messages == 0 && resp.Health == nil {
			t.Errorf("version %d: the earlier text is not withdrawn", c.version)
		}
	}
}

// While two processes use the key of a node, neither changes the node's name.
func TestDuplicateKeyName(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		watcher, a := n.join("watcher", k), n.join("laptop", k)
		a.endStream()
		a.staysConnected()
		n.copyOf(a, "vm").staysConnected()
		time.Sleep(10 * time.Second)
		var names []string
		for range 600 {
			time.Sleep(time.Second)
			m, _ := watcher.latestMap()
			if name := m.Peers[0].Name; !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		if len(names) != 1 {
			t.Errorf("the node had the names %q, want one", names)
		}
	})
}

// A restarted process and a process that reconnects repeatedly are not reported as duplicates.
func TestNoDuplicateKey(t *testing.T) {
	log := new(logBuffer)
	onNet(t, withLog(log), func(t *testing.T, n *testNet) {
		a := n.join("a", n.authKey(nil))
		for range 20 {
			for range 3 { // the server does not know yet that the previous connection is dead
				again := n.copyOf(a, "a")
				again.disco = a.disco
				again.stream()
				time.Sleep(time.Second)
			}
			a = n.copyOf(a, "a") // the process restarts
			a.stream()
			a.update(nil)
			time.Sleep(time.Second)
		}
		if log.count(duplicateKeyWarning) > 0 || n.node("a").Contested {
			t.Error("one process was reported as two")
		}
	})
}

func TestLabelFits(t *testing.T) {
	for _, test := range []struct {
		label, host string
		want        bool
	}{
		{"laptop", "Laptop.local", true}, {"laptop-1", "laptop", true}, {"laptop-12", "laptop", true},
		{"laptop", "vm", false}, {"laptop-x", "laptop", false}, {"laptops", "laptop", false}, {"node", "", true},
	} {
		if got := labelFits(test.label, test.host); got != test.want {
			t.Errorf("%q of %q: %v", test.label, test.host, got)
		}
	}
}

// A duplicate is detected when one of several copies returns, in whatever order the copies take the
// stream. Processes that merely follow each other are not duplicates.
func TestTakeOverFrom(t *testing.T) {
	var keys []key.DiscoPublic
	for range maxEarlier + 2 {
		keys = append(keys, key.NewDiscoPrivate().Public())
	}
	for _, c := range []struct {
		name  string
		order []int
		want  bool // of the last takeover
	}{
		{"restarted each time", []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, false},
		{"reconnected", []int{0, 0, 1, 1, 1}, false},
		{"two copies", []int{0, 1, 0}, true},
		{"two copies that reconnect in between", []int{0, 1, 1, 1, 0}, true},
		{"three in rotation", []int{0, 1, 2, 0}, true},
		{"as many as are remembered", []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 0}, true},
	} {
		var last *stream
		var got bool
		for _, i := range c.order {
			s := &stream{process: process{disco: keys[i]}}
			if last != nil {
				got = s.takeOverFrom(last)
			}
			last = s
		}
		if got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
		if len(last.earlier) > maxEarlier {
			t.Errorf("%s: %d processes are remembered", c.name, len(last.earlier))
		}
	}
}
