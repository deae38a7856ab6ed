package server

import (
	"net/netip"
	"sync"

	"ginnel/relay/internal/derp"
)

// queueMemory is the memory budget of a server's queues. The queues to the clients of one source
// address share a part of it.
type queueMemory struct {
	all *derp.Budget

	mu    sync.Mutex
	parts map[netip.Prefix]*sourceMemory
}

// sourceMemory is the part of one source address.
type sourceMemory struct {
	budget  *derp.Budget
	clients int // that hold the part
}

func newQueueMemory(limit int64) *queueMemory {
	return &queueMemory{all: derp.NewBudget(limit, nil), parts: make(map[netip.Prefix]*sourceMemory)}
}

// acquire returns the part of a source address. The caller must call release after it has closed
// the client's queue.
func (m *queueMemory) acquire(source netip.Prefix) *derp.Budget {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.parts[source]
	if p == nil {
		p = &sourceMemory{budget: derp.NewBudget(0, m.all)}
		m.parts[source] = p
	}
	p.clients++
	return p.budget
}

// release undoes one acquire; the last one removes the part.
func (m *queueMemory) release(source netip.Prefix) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.parts[source]
	if p.clients--; p.clients == 0 {
		delete(m.parts, source)
	}
}
