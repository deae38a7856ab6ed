package tuning

import (
	"bufio"
	"cmp"
	"io/fs"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// This file decides the memory budget of the process and has Go's runtime keep to it.
//
// Why: a control group kills a process that takes more memory than its limit. Go's runtime knows
// nothing of that limit; with GOGC alone a heap of live data may double before it is collected. So
// this is not a matter of speed, and Mode Off keeps it.
//
// Effect (docs/performance.md): with --memory 32MiB and 64 transfers a node has 32 MiB resident,
// and 89 MB without a bound. Test: go test -tags lab -run TestMemoryIsKept -v ./internal/lab.

// MinMemory is the least budget in bytes: what a node takes that does next to nothing.
const MinMemory = 24 << 20

const (
	// programMemory is the resident part of the program's file, which the runtime does not count.
	programMemory = 12 << 20

	// maxDefaultMemory has room for the buffers of ten thousand connections; see package userstack.
	maxDefaultMemory = 640 << 20
)

// budget returns the memory budget in bytes: wanted, or the default if that is 0.
func budget(wanted int64, system fs.FS) int64 { return cmp.Or(wanted, defaultMemory(system)) }

// limitRuntime sets Go's memory limit for a budget and returns the old one. GOMEMLIMIT in the
// environment wins.
func limitRuntime(budget int64) (old int64) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return debug.SetMemoryLimit(-1)
	}
	return debug.SetMemoryLimit(budget - programMemory)
}

// defaultMemory is a quarter of the machine's memory, or half of the control group's limit if that
// is less: the group is shared with the programs that use the node.
func defaultMemory(system fs.FS) int64 {
	budget := int64(maxDefaultMemory)
	if total, ok := machineMemory(system); ok {
		budget = min(budget, total/4)
	}
	if limit, ok := groupMemory(system); ok {
		budget = min(budget, limit/2)
	}
	return max(budget, MinMemory)
}

// machineMemory reads MemTotal of /proc/meminfo.
func machineMemory(system fs.FS) (bytes int64, ok bool) {
	f, err := system.Open("proc/meminfo")
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, found := strings.CutPrefix(lines.Text(), "MemTotal:"); found {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return n << 10, err == nil
		}
	}
	return 0, false
}

// groupMemory is the least limit of the control groups that this process is in.
func groupMemory(system fs.FS) (bytes int64, ok bool) {
	const unlimited = 1 << 60 // at least; version 1 writes a number near math.MaxInt64
	least := int64(math.MaxInt64)
	for text := range groupLimits(system, "memory", "memory.limit_in_bytes", "memory.max") {
		n, err := strconv.ParseInt(text, 10, 64) // version 2 writes "max" for no limit
		if err == nil && n > 0 && n < unlimited {
			least = min(least, n)
		}
	}
	return least, least < math.MaxInt64
}
