// Package netem emulates a network path for tests and benchmarks: delay, jitter, loss, reordering,
// a bottleneck with a bounded queue, and a limit on packet length. It does what the Linux queueing
// discipline of the same name does, for kernels that lack it.
//
// [Direction] is the model of one direction. It has no clock and sends nothing: from the time and
// the length of a packet it computes when the packet arrives. [Wire] joins two TAP devices, with
// one Direction each way, so that real hosts use the path. The devices have no offloads, so the
// kernel segments packets before they are sent, and the Wire sees them as they are on a wire.
//
// Goroutines: Wire.Run starts one for each direction. They end with its context.
package netem
