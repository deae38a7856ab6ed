package load

import (
	"time"

	"ginnel/bench/proc"
)

// costs are what programs have used so far.
type costs struct {
	cpu  time.Duration // of all programs
	now  int64         // resident bytes of all programs
	peak int64         // highest peak of one program, in bytes
}

func costsOf(pids []int) (c costs, err error) {
	for _, pid := range pids {
		cpu, err := proc.CPU(pid)
		if err != nil {
			return costs{}, err
		}
		m, err := proc.Resident(pid)
		if err != nil {
			return costs{}, err
		}
		c.cpu, c.now, c.peak = c.cpu+cpu, c.now+m.Now, max(c.peak, m.Peak)
	}
	return c, nil
}

// resetPeaks restarts the peaks from the current values.
func resetPeaks(pids []int) error {
	for _, pid := range pids {
		if err := proc.ResetPeak(pid); err != nil {
			return err
		}
	}
	return nil
}
