package tuning

import "runtime"

// Yield lets other goroutines run if there is one P only. A receiver calls it after each read from
// the network, when it has handed on what it read.
//
// Why: a receiver is ready again at once while packets keep coming. With one P it would read all
// that the network has before any connection takes a byte of it, so data would pile up in memory,
// and each segment would be acknowledged by itself. After a yield a connection finds everything of
// one read and acknowledges it once.
//
// Gain, go1.26.8, medians of four rounds in turns: 1 connection down 1733 → 1957 Mbit/s, processor
// time per GB 4.29 → 3.69 s, median round trip 301 → 238 us, 59 → 37 MB resident in bulk. With
// several Ps yielding costs throughput, 4039 → 3555 Mbit/s, so it is left out there. One yield for
// each read is enough: after each datagram it cost 5 % of the processor time per GB.
//
// Benchmark: make bench-peers PEERS='-only ginnel -steps ^(trips|down)', with a build without the
// call as -before. When memory and processor time per GB no longer differ, the call can go.
func (p *Process) Yield() {
	if p != nil && p.procs.one.Load() {
		runtime.Gosched()
	}
}
