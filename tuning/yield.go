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
// Gain (docs/performance.md): 0.63 acknowledgements for each segment instead of 1.05, and 4 to 5 %
// less processor time per GB. With a budget of 32 MiB and 64 transfers, 32 MiB of memory instead of
// 40. With several Ps yielding costs throughput, 4039 → 3555 Mbit/s, so it is left out there.
//
// Benchmark: make bench-peers PEERS='-only ginnel -steps ^down', with a build without the call as
// -before. When processor time per GB no longer differs, the call can go.
func (p *Process) Yield() {
	if p != nil && p.procs.one.Load() {
		runtime.Gosched()
	}
}
