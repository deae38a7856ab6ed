// Package nodeapi finds the running node and speaks with it: with its API, and with its proxy to
// connect to an address in the mesh.
//
// Goroutines: none that outlives a call.
package nodeapi
