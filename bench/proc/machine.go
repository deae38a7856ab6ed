package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Machine is the time that all processors have spent since boot, in ticks.
type Machine struct {
	Idle, Total uint64
}

// Processors returns the times of all processors together.
func Processors() (Machine, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Machine{}, err
	}
	return parseProcessors(string(b))
}

// parseProcessors reads the first line: user, nice, system, idle, iowait, irq, softirq, steal. The
// guest times that follow are already part of user and nice.
func parseProcessors(text string) (m Machine, err error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	const counted, idle = 8, 3
	if len(fields) <= counted || fields[0] != "cpu" {
		return m, fmt.Errorf("reading the times of processors: %q", line)
	}
	for i, f := range fields[1 : 1+counted] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return m, fmt.Errorf("reading the times of processors: %w", err)
		}
		m.Total += n
		if i == idle || i == idle+1 {
			m.Idle += n
		}
	}
	return m, nil
}

// IdlePercent returns the share of the time since earlier in which the processors were idle.
func (m Machine) IdlePercent(earlier Machine) float64 {
	if m.Total <= earlier.Total || m.Idle < earlier.Idle {
		return 0
	}
	return 100 * float64(m.Idle-earlier.Idle) / float64(m.Total-earlier.Total)
}
