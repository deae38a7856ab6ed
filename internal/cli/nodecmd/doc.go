// Package nodecmd has the commands for a node: those that run one (up, run), and those that ask or
// end the one that runs.
//
// Goroutines: a running node has one, a command that run starts has one, and nc has one for what it
// sends.
package nodecmd
