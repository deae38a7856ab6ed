// Package relaycmd has the command relay serve, which runs a DERP relay with its STUN server.
//
// Goroutines: those of package service.
package relaycmd
