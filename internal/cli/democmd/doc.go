// Package democmd has the command demo, which runs a whole mesh in one process.
//
// Goroutines: one for each listener of the mesh, until it is closed.
package democmd
