package node

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"ginnel/internal/share"
)

// What clients of a DNS server of this node may take at a time, all together. Sources share it (see
// share.SourceOf).
const (
	dnsQuestions    = 512             // that wait for somebody else's answer
	dnsConns        = 128             // TCP connections; the next ends the oldest of the source that has most
	dnsWriteTimeout = 2 * time.Second // for a TCP client to take an answer
)

// dnsLimits counts. newDNSLimits makes it.
type dnsLimits struct {
	questions share.Budget[netip.Prefix]

	mu    sync.Mutex
	conns share.Table[netip.Prefix, *dnsConn]
}

func newDNSLimits() *dnsLimits {
	return &dnsLimits{questions: share.Budget[netip.Prefix]{Size: dnsQuestions}}
}

// admit lists a connection, and returns the one to close for it, if there are too many.
func (l *dnsLimits) admit(c *dnsConn, source netip.Prefix) (displaced *dnsConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns.Len() >= dnsConns {
		_, displaced, _ = l.conns.Displace(source)
		l.conns.Remove(displaced)
	}
	l.conns.Add(source, c)
	return displaced
}

func (l *dnsLimits) forget(c *dnsConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns.Remove(c)
}

// dnsListener accepts the connections of those who are served.
type dnsListener struct {
	net.Listener
	limits *dnsLimits
	serves func(netip.Addr) bool
}

// Accept implements net.Listener.
func (l *dnsListener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		client := nc.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		if !l.serves(client) {
			nc.Close()
			continue
		}
		c := &dnsConn{Conn: nc, limits: l.limits}
		if displaced := l.limits.admit(c, share.SourceOf(client)); displaced != nil {
			displaced.Conn.Close()
		}
		return c, nil
	}
}

// dnsConn is a client's connection.
type dnsConn struct {
	net.Conn
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

// servesClient keeps the server from being an open resolver, on whatever address it listens: it
// answers this machine and private networks.
func servesClient(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast()
}
