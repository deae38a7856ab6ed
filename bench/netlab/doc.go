// Package netlab creates the networks in which programs are measured: one switch, and hosts linked
// to it, each in its own network namespace. The namespaces belong to processes and end with them,
// however they end. So nothing has to be removed afterwards, and two runs share no name. It needs
// Linux, ip(8) and nsenter(1), and root or user namespaces.
//
// A host may be behind an emulated path instead of a veth link. Then its eth0 and its port at the
// switch are TAP devices, and a process (see [Emulate]) carries frames between them.
//
// # Goroutines
//
// Each program has one goroutine, which waits for its end. Lab.Close ends all programs and awaits
// them. Emulate has one that reports counters and those of netem.Wire.Run; all end with its
// context.
package netlab
