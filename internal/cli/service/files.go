package service

import "time"

// Files say how a server reads its files again. Both functions are called by one goroutine, which
// is not the one that serves: a file system may keep a reader for good.
type Files struct {
	Reload func()        // on SIGHUP
	Look   func()        // every Poll; not called if Poll is 0
	Poll   time.Duration // positive, or 0
}

// WatchFiles begins to read files again, until Close.
func (r *Runner) WatchFiles(f Files) {
	r.filesc = make(chan struct{})
	r.files.Go(func() { r.watchFiles(f) })
}

func (r *Runner) watchFiles(f Files) {
	defer close(r.filesc)
	var tick <-chan time.Time
	if f.Poll > 0 {
		ticker := time.NewTicker(f.Poll)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case <-r.stopc:
			return
		case <-r.hupc:
			f.Reload()
		case <-tick:
			f.Look()
		}
	}
}

// endFiles waits for the end of watchFiles, except where a file system keeps it for good.
func (r *Runner) endFiles() {
	if r.filesc == nil {
		return
	}
	select {
	case <-r.filesc:
	case <-time.After(lastRequests):
		r.log.Warn("a file is still being read")
	}
}
