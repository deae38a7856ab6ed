// Package control speaks ts2021, the protocol between nodes and a coordination server: Noise IK in an HTTP upgrade,
// HTTP/2 inside of it, JSON on top (control specification). Channel and wire types serve both ends; Client is the
// node's end, package server the other.
//
// Goroutines: those of net/http, for the connections of a Client; Close ends them.
package control
