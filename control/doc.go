// Package control speaks ts2021, the protocol between nodes and a coordination server: Noise IK in
// an HTTP upgrade, HTTP/2 inside of it, JSON on top (control specification). Channel and wire types
// serve both ends; Client is the node's end, package server the other.
//
// Goroutines: a Client has those of net/http for its channel, and one for each ping that it
// answers; Close ends them.
package control
