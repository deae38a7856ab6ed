// Package controlcmd has the command control: serve runs a coordination server with its relay, and
// the other commands administer one.
//
// Goroutines: those of package service, and one that reads files again while a server runs.
package controlcmd
