package node

import (
	"cmp"
	"runtime"

	"ginnel/transport"
)

// laneMemory is the budget that each lane needs if there are several. A lane has receive buffers of
// 512 KiB in each address family. Most of that is never touched, but Go's memory limit counts all
// of it.
const laneMemory = 32 << 20

// lanes is the number of goroutines that decrypt what comes over UDP: the largest power of two up
// to half of the processors, so 1 for up to three processors, 2 from four on, 4 from eight on, and
// 8 from sixteen on. The other half is for TCP, the proxies and sending. A small budget of memory
// allows fewer.
//
// It is decided once, by Config.Processors, or by GOMAXPROCS when the node is made. By default that
// is the number of processors that the machine, the affinity mask and the control group
// allow. A tuned process lowers it while there is little to do; then New takes the number from
// before, see tuning.Process.
func (c *Config) lanes() int {
	processors, lanes := cmp.Or(c.Processors, runtime.GOMAXPROCS(0)), 1
	for lanes < transport.MaxLanes && 4*lanes <= processors && (c.Memory == 0 || c.Memory >= int64(2*lanes*laneMemory)) {
		lanes *= 2
	}
	return lanes
}

// useTuning takes from Tuning what the program has not set.
func (c *Config) useTuning() {
	c.Memory = cmp.Or(c.Memory, c.Tuning.Memory())
	c.Processors = cmp.Or(c.Processors, c.Tuning.Processors())
}
