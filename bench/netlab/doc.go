// Package netlab makes networks in which programs are measured: one switch, and machines with a
// wire to it, each in a network namespace of its own. The namespaces belong to processes, so that
// they go when those end, however they end: there is nothing to remove afterwards and no name that
// two runs could share. It needs Linux, ip(8) and nsenter(1), and root or user namespaces.
//
// A host may be behind an emulated path instead of a wire. Its eth0 is a TAP device then, the port
// of the switch is another, and a process between them (see [Emulate]) carries the frames.
//
// # Goroutines
//
// One for each program, which waits for its end. Lab.Close ends all programs and awaits them.
// Emulate has one that answers for counters and those of netem.Wire.Run; all end with its context.
package netlab
