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
	"ginnel/internal/key"
)

// logBuffer keeps what a server logs.
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

// stays keeps a stream open as a program does: it tells all, and comes back when it is put out.
func (p *peer) stays() {
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

// copyOf is another process with the keys of a node, on another host.
func (n *testNet) copyOf(p *peer, hostname string) *peer {
	c := n.newPeer(hostname)
	c.machine, c.node, c.disco = p.machine, p.node, key.NewDiscoPrivate().Public()
	c.Close()
	c.dial()
	return c
}

const contestWarning = "two processes use the key of one node"

// Two processes with one key take the stream from each other. Everybody who can do something about
// it is told, and nobody else is told too often.
func TestContested(t *testing.T) {
	log := new(logBuffer)
	onNet(t, withLog(log), func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		watcher, a := n.join("watcher", k), n.join("laptop", k)
		a.away()
		a.stays()
		settle()
		b := n.copyOf(a, "vm")
		_, before := watcher.latestMap()
		b.stays()
		time.Sleep(time.Hour)
		settle()
		if got := log.count(contestWarning); got != 1 {
			t.Errorf("warned %d times in an hour of one contest", got)
		}
		if log.count("node=laptop remote=")+log.count("node=vm remote=") != 1 {
			t.Error("the warning does not name node and addresses")
		}
		_, after := watcher.latestMap()
		if frames := after - before; frames > 300 { // 120 changes of hands, and what each brings
			t.Errorf("another node was told of it in %d frames in an hour", frames)
		}
		var contested []string
		for _, node := range n.nodes() {
			if node.Contested {
				contested = append(contested, node.Name)
			}
		}
		if len(contested) != 1 || n.server.core.countDuplicateKeys() != 1 {
			t.Errorf("contested: %v", contested)
		}
		for _, p := range []*peer{a, b} {
			if m, _ := p.latestMap(); !warned(m) {
				t.Errorf("%s is told %q and %v", p.host.Hostname, m.Health, m.DisplayMessages)
			}
		}
		if m, _ := watcher.latestMap(); len(m.Health)+len(m.DisplayMessages) > 0 {
			t.Errorf("another node is told %q", m.Health)
		}
		b.away()
		time.Sleep(duplicateKeyLife + takeoverInterval)
		settle()
		if m, _ := a.latestMap(); len(m.Health)+len(m.DisplayMessages) > 0 || n.server.core.countDuplicateKeys() != 0 {
			t.Errorf("after its end: %q", m.Health)
		}
		seen := watcher.sees("laptop")
		if !online(seen) || seen.DiscoKey != a.disco || n.node("laptop").Contested {
			t.Errorf("after its end: seen as %+v", seen)
		}
	})
}

// warned reports whether a node has been told of its rival.
func warned(m *control.NetMap) bool {
	d := m.DisplayMessages[control.MessageDuplicateKey]
	return d != nil && strings.Contains(d.Text, "another process")
}

// Clients that know nothing of display messages are told in the old way, and each is told when it
// is over.
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
			t.Errorf("version %d: what was said before is not taken back", c.version)
		}
	}
}

// While a node is contested its name is not changed by either.
func TestContestedName(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		watcher, a := n.join("watcher", k), n.join("laptop", k)
		a.away()
		a.stays()
		n.copyOf(a, "vm").stays()
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
			t.Errorf("the node was called %q", names)
		}
	})
}

// Neither a process that is started anew, nor one that loses its connection again and again,
// contends with itself.
func TestNotContested(t *testing.T) {
	log := new(logBuffer)
	onNet(t, withLog(log), func(t *testing.T, n *testNet) {
		a := n.join("a", n.authKey(nil))
		for range 20 {
			for range 3 { // its old connection is not known to be gone
				again := n.copyOf(a, "a")
				again.disco = a.disco
				again.stream()
				time.Sleep(time.Second)
			}
			a = n.copyOf(a, "a") // a new run
			a.stream()
			a.update(nil)
			time.Sleep(time.Second)
		}
		if log.count(contestWarning) > 0 || n.node("a").Contested {
			t.Error("taken for two")
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

// Any number of copies is noticed when one of them comes back, in whatever order; processes that
// follow each other are not.
func TestTakeFrom(t *testing.T) {
	var keys []key.DiscoPublic
	for range maxEarlier + 2 {
		keys = append(keys, key.NewDiscoPrivate().Public())
	}
	for _, c := range []struct {
		name  string
		order []int
		want  bool // at the last of them
	}{
		{"started anew each time", []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, false},
		{"connected again", []int{0, 0, 1, 1, 1}, false},
		{"two copies", []int{0, 1, 0}, true},
		{"two copies that connect again in between", []int{0, 1, 1, 1, 0}, true},
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
			t.Errorf("%s: %d are remembered", c.name, len(last.earlier))
		}
	}
}
