// Package netlab makes networks in which programs are measured: one switch, and machines with a
// wire to it, each in a network namespace of its own. The namespaces belong to processes, so that
// they go when those end, however they end: there is nothing to remove afterwards and no name that
// two runs could share. It needs Linux, ip(8) and nsenter(1), and root or user namespaces.
//
// # Goroutines
//
// One for each program, which waits for its end. Lab.Close ends all programs and awaits them.
package netlab
