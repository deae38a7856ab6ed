package node

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// logBuffer holds the log of a node.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A node that is closed does not log a failure of the conversation with its server.
func TestCloseIsNoFailure(t *testing.T) {
	n := newNetwork(t)
	for range 5 {
		var log logBuffer
		a := n.join("alpha", func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		eventually(t, "alpha has joined", func() bool { return a.Status().State == StateRunning })
		a.Close()
		if got := log.String(); strings.Contains(got, "no conversation") || strings.Contains(got, "use of closed") {
			t.Errorf("closing the node was logged as a failure:\n%s", got)
		}
	}
}

// A node that has just started does not tell the server that it has no home relay; otherwise peers
// would lose the relay of its earlier run, and could not reply.
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
