// Package load generates the traffic by which proxies are compared, and is the service that they
// reach. It uses only SOCKS5 and HTTP CONNECT, so it drives any proxy. Every byte is compared with
// what was sent.
//
// # The service
//
// The service listens on one port. A TCP connection begins with a request of eight bytes: the kind,
// the congestion control for the service's side (0 default, 1 cubic, 2 bbr), two zero bytes and a
// big-endian size.
//
//	'S' size  The service sends frames: a count of 8 bytes and size bytes of the pattern each.
//	          The count is of pattern bytes that it has received, all ones if one was corrupt.
//	          With size 0 it sends a frame after every 128 KiB received.
//	'E'       The service sends back what it receives.
//	'Q'       The service sends back the next 64 bytes. The client closes first.
//	'G' size  The service sends size bytes of the pattern. The client closes first.
//	'P' size  The client sends size bytes of the pattern. The service sends counts as for 'S'
//	          with size 0, and one more when it has received all.
//
// A datagram begins with its kind, an 8-byte run number and an 8-byte sequence number. The rest is
// the pattern from that number on. The service counts datagrams of kind 'D'. It answers kind 'C'
// with the same kind and the run's count as the sequence number, all ones if a datagram of the run
// was corrupt. It keeps only the run with the highest number.
//
// # Goroutines
//
// The server has one goroutine for each connection, two for a stream, and one for datagrams. Close
// ends and awaits all of them. A measurement has one or two for each connection and waits for them.
package load
