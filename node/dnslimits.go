package node

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"ginnel/internal/share"
)

// Limits of one DNS server, for all clients together. Sources of clients (see share.SourceOf) get
// equal shares.
const (
	dnsQuestions    = 512             // queries that wait for another server
	dnsConns        = 128             // TCP connections; a further one ends the oldest of the source that has most
	dnsWriteTimeout = 2 * time.Second // for a TCP client to read an answer
)

// dnsLimits enforces the limits of one server. Make it with newDNSLimits.
type dnsLimits struct {
	questions share.Budget[netip.Prefix]

	mu    sync.Mutex
	conns share.Table[netip.Prefix, *dnsConn]
}

func newDNSLimits() *dnsLimits {
	return &dnsLimits{questions: share.Budget[netip.Prefix]{Size: dnsQuestions}}
}

// admit lists a connection. If there are too many, it returns another one, which the caller has to
// close.
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

// dnsListener closes connections of clients that are not served.
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

// dnsConn is the connection of a client.
type dnsConn struct {
	net.Conn
	limits *dnsLimits
}

// Write implements net.Conn. It fails for a client that does not read.
func (c *dnsConn) Write(b []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(dnsWriteTimeout))
	return c.Conn.Write(b)
}

// Close implements net.Conn.
func (c *dnsConn) Close() error {
	c.limits.forget(c)
	return c.Conn.Close()
}

// servesClient reports whether a client is on this machine or in a private network. Other clients
// are not answered, so that a server on a public address is not an open resolver.
func servesClient(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast()
}
