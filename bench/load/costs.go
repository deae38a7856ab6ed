package load

import (
	"time"

	"ginnel/bench/proc"
)

// costs are what programs have used up to now, together, and the most memory that one of them had.
type costs struct {
	cpu  time.Duration
	now  int64 // bytes, of all
	peak int64 // bytes, of the one that has most
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

// resetPeaks lets the peaks count from now on.
func resetPeaks(pids []int) error {
	for _, pid := range pids {
		if err := proc.ResetPeak(pid); err != nil {
			return err
		}
	}
	return nil
}
