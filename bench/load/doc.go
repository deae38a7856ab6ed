// Package load makes the traffic by which proxies are compared, and is the service at its other
// end. It speaks SOCKS5 and HTTP CONNECT to the proxy and nothing else, so that it drives any;
// every byte is compared with what was sent.
//
// # The service
//
// It listens on one port. A TCP connection begins with eight bytes: what is wanted, the congestion
// control of the service's side (0 default, 1 cubic, 2 bbr), two zeros and a size, big-endian.
//
//	'S' size  frames come, each a count of 8 bytes and size bytes of the pattern; the count is of pattern bytes that have
//	          arrived here, all ones if one was wrong. With size 0 a frame comes whenever 128 KiB more have arrived
//	'E'       what arrives is sent back
//	'Q'       the next 64 bytes are sent back; the client closes, and then the service does
//	'G' size  size bytes of the pattern come; the client closes, and then the service does
//	'P' size  the client sends size bytes of the pattern; counts come as with 'S' and size 0, and one when all have arrived
//
// A datagram begins with its kind, a run's number of 8 bytes and a sequence number of 8 bytes; the
// rest is the pattern from that number on. Kind 'D' is counted; kind 'C' is answered by itself with
// the run's count as sequence number, all ones if one of the run was wrong. Only the run with the
// highest number is known.
//
// # Goroutines
//
// Server: one for each connection, two for a stream, one for datagrams; Close ends and awaits all.
// Each measurement has one or two for each connection and waits for them.
package load
