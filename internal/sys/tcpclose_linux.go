//go:build linux && !ginnel_stdnet

package sys

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	deferDelay  = 50 * time.Millisecond // how long a descriptor may stay open after CloseEnded
	maxDeferred = 64                    // descriptors that wait; at this many all are closed at once
)

// deferred closes the descriptors of connections that have ended. Package os closes a file by a
// normal system call, which wakes sysmon: one by one, closes would keep it awake. There is one for
// the process because sysmon and the limit of descriptors belong to the process.
var deferred deferredClose

// deferredClose closes files together, deferDelay after the first of them was added.
type deferredClose struct {
	mu    sync.Mutex
	files []*os.File
	timer *time.Timer // runs closeAll; nil before the first file
}

func (c *deferredClose) add(f *os.File) {
	f.SetDeadline(time.Unix(1, 0)) // wakes whoever still waits for this connection
	c.mu.Lock()
	c.files = append(c.files, f)
	n := len(c.files)
	if c.timer == nil {
		c.timer = time.AfterFunc(deferDelay, c.closeAll)
	} else if n == 1 {
		c.timer.Reset(deferDelay)
	}
	c.mu.Unlock()
	if n >= maxDeferred {
		c.closeAll()
	}
}

func (c *deferredClose) closeAll() { c.empty() }

// empty closes all files that wait and returns their number.
func (c *deferredClose) empty() int {
	c.mu.Lock()
	files := c.files
	c.files = nil
	c.mu.Unlock()
	for _, f := range files {
		f.Close()
	}
	return len(files)
}

// makeRoom reports whether a call that failed with err for want of a descriptor is worth repeating,
// because descriptors were closed just now.
func (c *deferredClose) makeRoom(err error) bool {
	return (err == unix.EMFILE || err == unix.ENFILE) && c.empty() > 0
}
