package hostsock

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// leftoverDelay is how long a descriptor may wait for others to be closed with, and maxLeftovers
	// how many wait at the most.
	leftoverDelay = 50 * time.Millisecond
	maxLeftovers  = 64
)

// leftovers are the descriptors of connections that have ended. Package os closes a file by a call
// of which the scheduler is told: one after the other, they would keep the monitor thread awake.
// There is one of these for the process, as there is one such thread and one limit of descriptors.
var leftovers closer

// closer closes files a while after they are added, together.
type closer struct {
	mu    sync.Mutex
	files []*os.File
	timer *time.Timer // runs closeAll; nil before the first file
}

func (c *closer) add(f *os.File) {
	f.SetDeadline(time.Unix(1, 0)) // nobody has to wait for the close who waits for the connection
	c.mu.Lock()
	c.files = append(c.files, f)
	n := len(c.files)
	if c.timer == nil {
		c.timer = time.AfterFunc(leftoverDelay, c.closeAll)
	} else if n == 1 {
		c.timer.Reset(leftoverDelay)
	}
	c.mu.Unlock()
	if n >= maxLeftovers {
		c.closeAll()
	}
}

func (c *closer) closeAll() { c.empty() }

// empty closes what waits, and returns how many that were.
func (c *closer) empty() int {
	c.mu.Lock()
	files := c.files
	c.files = nil
	c.mu.Unlock()
	for _, f := range files {
		f.Close()
	}
	return len(files)
}

// makeRoom reports whether it is worth another attempt to get a descriptor, after one that failed.
func (c *closer) makeRoom(err error) bool {
	return (err == unix.EMFILE || err == unix.ENFILE) && c.empty() > 0
}
