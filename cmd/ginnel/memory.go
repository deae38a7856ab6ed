package main

import (
	"bufio"
	"cmp"
	"io/fs"
	"log/slog"
	"runtime/debug"
	"strconv"
	"strings"
)

// This file decides how much memory a node may take: what --memory says, or a part of what there
// is.

const (
	// minMemory is what a node takes that does next to nothing.
	minMemory = 24 << 20

	// Below frugalMemory a node keeps to one processor; see processors.go.
	frugalMemory = 64 << 20

	// programMemory is what of the program's file is in memory, which the runtime does not count.
	programMemory = 12 << 20

	// maxDefaultMemory has room for the buffers of ten thousand connections; see userstack.
	maxDefaultMemory = 640 << 20
)

// useMemory has Go's runtime keep within budget bytes, or the default if it is 0, and returns it.
// GOMEMLIMIT wins as far as the runtime is concerned.
func useMemory(budget int64, p program, system fs.FS, log *slog.Logger) int64 {
	budget = cmp.Or(budget, defaultMemory(system))
	if p.getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(budget - programMemory)
	}
	log.Debug("memory is bounded", "bytes", budget)
	return budget
}

// defaultMemory is half of what the control group is allowed, which is shared with the programs
// that use the node, or a quarter of the machine's memory.
func defaultMemory(system fs.FS) int64 {
	budget := int64(maxDefaultMemory)
	if total, ok := machineMemory(system); ok {
		budget = min(budget, total/4)
	}
	if limit, ok := groupMemory(system); ok {
		budget = min(budget, limit/2)
	}
	return max(budget, minMemory)
}

// machineMemory reads MemTotal.
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
	for text := range groupLimits(system, "memory", "memory.limit_in_bytes", "memory.max") {
		// No limit is "max" in version 2, and more than any machine has in version 1.
		n, err := strconv.ParseInt(text, 10, 64)
		if err == nil && n > 0 && n < 1<<60 && (!ok || n < bytes) {
			bytes, ok = n, true
		}
	}
	return bytes, ok
}
