// Package sys owns every system call that the product makes by itself: golang.org/x/sys/unix,
// unsafe, and package syscall except for error and signal numbers. The import table in the root of
// the repository keeps the other packages out.
//
// # The law
//
// A raw call (syscall.RawSyscall) skips entersyscall and exitsyscall, so the goroutine keeps its P
// while the kernel works. That is only allowed for a call that cannot block: a call on a
// non-blocking descriptor, or one that does nothing but set or read a value. A raw call that blocks
// stops every goroutine of its P, and the garbage collector with them. Waiting is left to the
// runtime's poller, through syscall.RawConn.
//
// # Why raw calls
//
// Around a normal call the runtime wakes sysmon if the process was idle, and sysmon then looks at
// all Ps every 20 µs. It may also retake the P of a call that copies for long. In a process that
// waits for the network that bookkeeping costs more than the call. The tricks, what each gained in
// a whole node (Go 1.26, Linux 6.18; docs/performance.md has the conditions):
//
//   - Streams (stream.go): reads and writes of TCP and Unix sockets. Together with the delayed
//     acknowledgement, processor time of a round trip fell from 454 to 260 us.
//   - TCP (tcp.go): accept, connect and close by raw calls, options inherited from the listener,
//     and descriptors closed together. Short connections, one at a time: 881 to 1043 a second;
//     16 at a time: 2398 to 2686.
//   - UDP (udp.go): recvmmsg and sendmmsg with UDP_GRO and UDP_SEGMENT, without which bulk is
//     several times slower.
//   - Splice (pipe.go): bytes between two TCP sockets of the host stay in the kernel.
//   - UDP port sharing (udpoptions.go): several sockets on one port, chosen by the receiver index
//     of WireGuard data messages (docs/processors.md).
//   - Tuning (tuning.go): what package tuning needs to poll, to yield and to release memory.
//
// 'make bench-peers' compares a build with -tags ginnel_stdnet with one without (its flag -before):
// a trick that gains less than 3 % there goes.
//
// # Faces and fall-backs
//
// Each trick has its exported face in one file without build constraints, its Linux code in files
// that end in _linux.go, and a complete fall-back in _portable.go (or _unix.go and _other.go where
// other Unix systems can do better than the rest). The build tag ginnel_stdnet takes the fall-backs
// on Linux too: sockets of package net, one datagram a call, no splice, and normal system calls.
// The test suite passes with it. In an incident, a program that is built so answers the question
// whether a trick is to blame.
//
// Goroutines: none, except what NetworkEvents starts with its caller's group. A timer closes
// descriptors of TCP connections that have ended.
package sys
