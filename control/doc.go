// Package control implements ts2021, the protocol between nodes and a coordination server: an HTTP
// upgrade, a Noise IK handshake, HTTP/2 inside the encrypted channel, and JSON documents on top
// (control specification). Both ends use Conn, the encrypted channel, and the wire types. Client is
// the node's end; package server is the other.
//
// Goroutines: a Client has those of net/http for its channel, and one for each ping that it is
// answering. Close ends them.
package control
