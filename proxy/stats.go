package proxy

import "sync/atomic"

// Stats holds the counters of a Server. Bytes are payload; for an HTTP request in absolute form
// that is what passed on the connection to the origin server, headers included.
//
// If the conn of Dial copies the bytes itself (io.ReaderFrom or io.WriterTo), they are counted when
// the direction ends.
type Stats struct {
	SOCKS5, SOCKS4, HTTP uint64 // connections, by their protocol
	Forwarded            uint64 // connections of Forward and ForwardConn, and sessions of ForwardPackets
	HTTPRequests         uint64 // requests in absolute form; a connection may carry many
	AuthRefused          uint64 // refused for a missing or wrong password, or by ServeUser
	HandshakesEvicted    uint64 // closed because too many were in a handshake or idle
	HandshakesFailed     uint64 // timed out, hung up or sent a malformed request
	DialFailures         DialFailures
	BytesSent            uint64 // to destinations
	BytesReceived        uint64 // from destinations
	DatagramsSent        uint64
	DatagramsReceived    uint64
	DatagramsDropped     uint64 // wrong source, fragment, malformed, too long, queue full, or not accepted by the network
	OpenConnections      int64  // clients connected now
	OpenAssociations     int64  // UDP associations, and sessions of ForwardPackets, now
}

// DialFailures counts failed dials by the reason that the client was told.
type DialFailures struct {
	Denied, NetworkUnreachable, HostUnreachable, Refused, TimedOut, Other uint64
}

type counters struct {
	socks5, socks4, http, httpRequests  atomic.Uint64
	forwarded, authRefused              atomic.Uint64
	handshakesEvicted, handshakesFailed atomic.Uint64
	failed                              [reasons]atomic.Uint64
	sent, received                      atomic.Uint64
	datagramsSent, datagramsReceived    atomic.Uint64
	datagramsDropped                    atomic.Uint64
	openConnections, openAssociations   atomic.Int64
}

// Stats returns a snapshot of the counters.
func (s *Server) Stats() Stats {
	c := &s.counters
	return Stats{
		SOCKS5:            c.socks5.Load(),
		SOCKS4:            c.socks4.Load(),
		HTTP:              c.http.Load(),
		Forwarded:         c.forwarded.Load(),
		HTTPRequests:      c.httpRequests.Load(),
		AuthRefused:       c.authRefused.Load(),
		HandshakesEvicted: c.handshakesEvicted.Load(),
		HandshakesFailed:  c.handshakesFailed.Load(),
		DialFailures: DialFailures{
			Denied:             c.failed[denied].Load(),
			NetworkUnreachable: c.failed[networkUnreachable].Load(),
			HostUnreachable:    c.failed[hostUnreachable].Load(),
			Refused:            c.failed[connectionRefused].Load(),
			TimedOut:           c.failed[timedOut].Load(),
			Other:              c.failed[otherFailure].Load(),
		},
		BytesSent:         c.sent.Load(),
		BytesReceived:     c.received.Load(),
		DatagramsSent:     c.datagramsSent.Load(),
		DatagramsReceived: c.datagramsReceived.Load(),
		DatagramsDropped:  c.datagramsDropped.Load(),
		OpenConnections:   c.openConnections.Load(),
		OpenAssociations:  c.openAssociations.Load(),
	}
}

// meter counts the bytes of one direction of one connection, and adds them to the Server's total.
type meter struct {
	n     atomic.Uint64
	total *atomic.Uint64
}

func (m *meter) add(n int64) {
	m.n.Add(uint64(n))
	m.total.Add(uint64(n))
}
