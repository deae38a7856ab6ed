// Package service is what the two servers of the program share, the relay and the coordination
// server: ports and HTTP servers that run until the service is closed, files that are read again on
// SIGHUP, warnings about certificates, and clients that are told before the end.
//
// Goroutines: one for each listener until Close, and one for each connection of a Splitter until
// its first byte has come.
package service
