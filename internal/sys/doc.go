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
// a whole node, and the benchmark that shows it (Go 1.26, Linux 6.18; docs/performance.md):
//
//   - Streams (stream.go): reads and writes of TCP and Unix sockets. Part of the 20 to 30 % by which
//     short connections got faster with TCP; make bench-peers.
//   - TCP (tcp.go): accept, connect and close by raw calls, options inherited from the listener, and
//     descriptors closed together. Short connections, one at a time: 881 to 1043 a second;
//     16 at a time: 2398 to 2686; make bench-peers, BenchmarkConnection.
//   - UDP (udp.go): recvmmsg and sendmmsg with UDP_GRO and UDP_SEGMENT. Bulk is several times as
//     fast as with one datagram a call; BenchmarkSend, BenchmarkReceive.
//   - Splice (pipe.go): bytes between two TCP sockets stay in the kernel; BenchmarkSplice in package
//     proxy.
//   - UDP port sharing (udpoptions.go): several sockets on one port, chosen by the receiver index of
//     WireGuard data messages; BenchmarkLanes in package transport.
//
// # Faces and fall-backs
//
// Each trick has its exported face in one file without build constraints, its Linux code in files
// that end in _linux.go, and a complete fall-back in _portable.go (or _unix.go and _other.go where
// other Unix systems can do better than the rest). The build tag ginnel_stdnet takes the fall-backs
// on Linux too: sockets of package net and one datagram a call. The test suite passes with it. In
// an incident, a program that is built so answers the question whether a trick is to blame.
//
// Goroutines: none, except what NetworkEvents starts with its caller's group. A timer closes
// descriptors of TCP connections that have ended.
package sys
