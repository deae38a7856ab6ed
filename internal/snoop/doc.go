// Package snoop is the sending half of a TCP connection, below a TCP that believes to have sent the
// data: it tracks what the peer has not acknowledged, retransmits what is lost, and paces by BBR.
// Retransmitting below TCP is the idea of the Snoop protocol (Balakrishnan et al., "Improving
// TCP/IP Performance over Wireless Networks", 1995).
//
// The TCP above hands over segments. A Sender decides when each leaves. It detects losses from the
// peer's selective acknowledgements by RACK and tail loss probes (RFC 8985), and retransmits. The
// acknowledgements that TCP sees show no losses, so TCP never slows down: only package bbr decides
// how much may be in flight.
//
// A Sender handles sequence numbers only; its owner keeps the bytes. It has no clock, goroutine or
// lock: its owner passes the time, of any clock that does not go back.
package snoop
