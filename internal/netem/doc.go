// Package netem emulates a network path for tests and benchmarks: delay, jitter, loss, reordering,
// a bottleneck with a bounded queue, and a limit on packet length. It does what the Linux queueing
// discipline of the same name does, for kernels that lack it.
//
// [Direction] is the model of one direction. It has no clock and sends nothing: it is told the time
// and the length of a packet, and answers when the packet arrives. [Wire] joins two TAP devices
// with one Direction each way, so that real hosts see the path; it sees packets as they are on a
// wire, because a TAP device without offloads makes the kernel cut every segment before it is sent.
//
// Goroutines: Wire.Run has one for each direction, which ends with its context.
package netem
