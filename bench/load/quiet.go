package load

import (
	"context"
	"time"

	"ginnel/bench/proc"
)

// quiet measures programs without traffic. Each figure is the highest of all programs.
func quiet(ctx context.Context, s *Spec) (Figures, error) {
	if err := wait(ctx, s.warmup()); err != nil {
		return nil, err
	}
	start := time.Now()
	before, err := activities(s.PIDs)
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, s.Duration); err != nil {
		return nil, err
	}
	after, err := activities(s.PIDs)
	if err != nil {
		return nil, err
	}
	seconds := time.Since(start).Seconds()
	f := make(Figures)
	for i := range after {
		f["wakeups_per_s"] = max(f["wakeups_per_s"], float64(after[i].Wakeups-before[i].Wakeups)/seconds)
		f["cpu_percent"] = max(f["cpu_percent"], 100*(after[i].CPU-before[i].CPU).Seconds()/seconds)
	}
	return f, nil
}

func activities(pids []int) (all []proc.Activity, err error) {
	for _, pid := range pids {
		a, err := proc.Threads(pid)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}
