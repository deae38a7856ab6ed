package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc/PID/stat (USER_HZ). It is the same on every architecture that
// Go supports.
const tick = 10 * time.Millisecond

// CPU returns the time that all threads of a process have run, in user space and in the kernel.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(path(pid, "stat"))
	if err != nil {
		return 0, err
	}
	return parseStat(b)
}

// parseStat reads fields 14 and 15. The second field is a name in parentheses, which may contain
// any characters.
func parseStat(b []byte) (time.Duration, error) {
	end := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[end+1:]))
	const user, system = 14 - 3, 15 - 3 // the first field here is the third
	if end < 0 || len(fields) <= system {
		return 0, fmt.Errorf("reading the times of a process: %q", b)
	}
	var sum time.Duration
	for _, f := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseUint(f, 10, 48)
		if err != nil {
			return 0, fmt.Errorf("reading the times of a process: %w", err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// Memory is the resident memory of a process in bytes.
type Memory struct {
	Now, Peak int64
}

// Resident returns the memory of a process, and its peak since its start or since [ResetPeak].
func Resident(pid int) (Memory, error) {
	b, err := os.ReadFile(path(pid, "status"))
	if err != nil {
		return Memory{}, err
	}
	return parseStatus(string(b))
}

func parseStatus(s string) (m Memory, err error) {
	if m.Now, err = kilobytes(s, "VmRSS:"); err != nil {
		return Memory{}, err
	}
	m.Peak, err = kilobytes(s, "VmHWM:")
	return m, err
}

// kilobytes reads a line such as "VmRSS:     1234 kB".
func kilobytes(s, name string) (int64, error) {
	for line := range strings.Lines(s) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != name || fields[2] != "kB" {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 48)
		if err != nil {
			return 0, fmt.Errorf("reading %s of a process: %w", name, err)
		}
		return n << 10, nil
	}
	return 0, fmt.Errorf("reading %s of a process: no such field; the process has ended", name)
}

// ResetPeak restarts the peak of a process from its current memory.
func ResetPeak(pid int) error { return os.WriteFile(path(pid, "clear_refs"), []byte("5"), 0) }

func path(pid int, file string) string { return fmt.Sprintf("/proc/%d/%s", pid, file) }
