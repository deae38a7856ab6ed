package node

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// What clients of the local DNS server may take at a time, all together and each source: an IPv4
// address or a /64 of IPv6.
const (
	dnsQuestions       = 512 // that wait for somebody else's answer
	dnsSourceQuestions = 128
	dnsConns           = 128 // TCP connections
	dnsSourceConns     = 64
	dnsWriteTimeout    = 2 * time.Second // for a TCP client to take an answer
)

// dnsLimits counts.
type dnsLimits struct {
	mu        sync.Mutex
	questions map[netip.Addr]int
	total     int
	conns     []*dnsConn // oldest first
}

// begin counts a question, or reports false if there are too many.
func (l *dnsLimits) begin(src netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= dnsQuestions || l.questions[src] >= dnsSourceQuestions {
		return false
	}
	if l.questions == nil {
		l.questions = make(map[netip.Addr]int)
	}
	l.questions[src]++
	l.total++
	return true
}

func (l *dnsLimits) end(src netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.questions[src]--; l.questions[src] == 0 {
		delete(l.questions, src)
	}
}

// admit lists a connection. If there are too many of its source, or of all, it returns the one to
// close: the oldest of the source that has the most.
func (l *dnsLimits) admit(c *dnsConn) (victim *dnsConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := make(map[netip.Addr]int)
	for _, other := range l.conns {
		count[other.src]++
	}
	greediest := c.src
	if count[c.src] < dnsSourceConns {
		for src, n := range count {
			if n > count[greediest] {
				greediest = src
			}
		}
	}
	if len(l.conns) >= dnsConns || count[c.src] >= dnsSourceConns {
		i := slices.IndexFunc(l.conns, func(other *dnsConn) bool { return other.src == greediest })
		victim = l.conns[i]
		l.conns = slices.Delete(l.conns, i, i+1)
	}
	l.conns = append(l.conns, c)
	return victim
}

func (l *dnsLimits) forget(c *dnsConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = slices.DeleteFunc(l.conns, func(other *dnsConn) bool { return other == c })
}

// dnsListener accepts the connections of those who are served.
type dnsListener struct {
	net.Listener
	limits *dnsLimits
}

// Accept implements net.Listener.
func (l *dnsListener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &dnsConn{Conn: nc, src: sourceOf(nc.RemoteAddr()), limits: l.limits}
		if !servesSource(c.src) {
			nc.Close()
			continue
		}
		if victim := l.limits.admit(c); victim != nil {
			victim.Conn.Close()
		}
		return c, nil
	}
}

// dnsConn is a client's connection.
type dnsConn struct {
	net.Conn
	src    netip.Addr
	limits *dnsLimits
}

// Write implements net.Conn. A client that does not read loses its connection.
func (c *dnsConn) Write(b []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(dnsWriteTimeout))
	return c.Conn.Write(b)
}

// Close implements net.Conn.
func (c *dnsConn) Close() error {
	c.limits.forget(c)
	return c.Conn.Close()
}

// sourceOf is the address that a client is counted by.
func sourceOf(a net.Addr) netip.Addr {
	var ip netip.Addr
	switch a := a.(type) {
	case *net.UDPAddr:
		ip = a.AddrPort().Addr()
	case *net.TCPAddr:
		ip = a.AddrPort().Addr()
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is6() && !ip.IsLoopback() {
		p, _ := ip.Prefix(64) // which has no other error than a length that is none
		return p.Addr()
	}
	return ip
}

// servesSource keeps the server from being an open resolver, on whatever address it listens: it
// answers this machine and private networks.
func servesSource(a netip.Addr) bool {
	return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast()
}
