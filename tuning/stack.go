package tuning

// stackSize is what the calls from a proxy down through the network stack and the encryption to a
// socket need.
const stackSize = 10 << 10

// GrowStack makes sure that the caller's goroutine can use stackSize bytes of stack. A goroutine
// that serves one connection calls it first. Config.Mode does not matter, because no setting of the
// process changes.
//
// Why: the runtime doubles a stack when it is full, and each time it copies all frames and adjusts
// the pointers in them. A goroutine that goes deep pays that two or three times, with more frames
// each time. Growing at once copies next to nothing. The runtime's own remedy, to start stacks at
// the average size that the collector saw (since Go 1.19), does not help here: most goroutines of a
// node are idle and shallow, so the average is small.
//
// Gain, go1.26.8, medians of eight rounds in turns: processor time of both nodes for a short
// connection, 1 at a time 1181 → 1096 us, 16 at a time 898 → 773 us. Connections a second differ
// within the noise.
//
// Benchmark: BenchmarkStack here; make bench-peers PEERS='-only ginnel -steps ^requests', with a
// build without the call as -before.
//
//go:noinline
func GrowStack() { touch(0) }

//go:noinline
func touch(i int) byte {
	var frame [stackSize]byte
	frame[i] = 1
	return frame[stackSize-1-i]
}
