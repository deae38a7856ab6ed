// Package proxy serves a local proxy on one listener: SOCKS5 (RFC 1928, 1929), SOCKS4, SOCKS4a and
// HTTP (CONNECT and absolute-form requests). The first byte that a client sends tells the protocol.
//
// The package reaches the network behind it only through [Server.Dial] and [Server.ListenPacket].
//
// A connection goes through three stages. During its handshake handshakeLimit holds it, and closes
// it if its client stays silent while others wait. While its destination is dialled a hangupWatch
// watches the client, so that a client that hangs up cancels the dial. Afterwards two goroutines
// copy its bytes (tunnel.go, copy.go), and the memory of the handshake has been freed.
//
// Goroutines:
//   - one per call of Serve, ServeUser, Forward and ForwardPackets, the caller's own; it ends with
//     Close or when the listener fails;
//   - one for net/http's accept loop, which is fed the connections that speak HTTP; Close ends it;
//   - one per connection, until its handshake or its dial is over;
//   - one per dial that lasts longer than watchDelay, for the hangupWatch; it ends with the dial;
//   - two per tunnel, three per UDP association and two per UDP session of ForwardPackets; they end
//     when the sockets that they copy between are closed, which Close does.
//
// net/http starts its own: one or two per HTTP connection, which Close waits for, and two per
// connection to an origin server, which end with that connection.
package proxy
