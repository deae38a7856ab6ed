// Package proxy offers a way to dial as a local proxy: one listener that speaks SOCKS5 (RFC 1928,
// 1929), SOCKS4, SOCKS4a and HTTP (CONNECT and absolute-form), told apart by the first byte a
// client sends.
//
// It knows nothing of the network behind it but [Server.Dial] and [Server.ListenPacket].
//
// A connection goes through three stages. In its handshake it sits in a bounded list, from which it
// is evicted if its client is silent while others wait (gate.go). While its destination is dialled
// it is watched, so that a client that leaves ends the dial (watch.go). Then two goroutines carry
// its bytes (tunnel.go, copy.go), and everything the handshake needed has been let go.
//
// Goroutines: one per call of Serve, ended by Close or its listener; one that runs net/http's
// accept loop over the connections found to be HTTP, ended by Close; one per connection, ended by
// the end of its handshake or dial; one per dial that watches the client, ended by the dial; two
// per tunnel, three per UDP association and two per sender of forwarded datagrams, ended by the
// closing of the connections they copy between, which Close does for all. net/http starts its own:
// one or two per HTTP connection, which Close waits for, and two per connection to an origin, which
// end with it.
package proxy
