// Package statedir keeps the state directory of a node: its lock, its identity, its last network
// map, and the file by which commands find the running node.
//
// Goroutines: none.
package statedir
