package hostsock

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// leftoverDelay is how long a descriptor may wait for others to be closed with, and maxLeftovers how many wait at the most.
	leftoverDelay = 50 * time.Millisecond
	maxLeftovers  = 256
)

// leftovers are the descriptors of connections that have ended. Package os closes a file by a call of which the scheduler is
// told: one after the other, they would keep the monitor thread awake.
var leftovers heap

type heap struct {
	mu    sync.Mutex
	files []*os.File
	timer *time.Timer
}

func (h *heap) add(f *os.File) {
	f.SetDeadline(time.Unix(1, 0)) // nobody has to wait for the close who waits for the connection
	h.mu.Lock()
	h.files = append(h.files, f)
	n := len(h.files)
	if h.timer == nil {
		h.timer = time.AfterFunc(leftoverDelay, func() { h.closeAll() })
	} else if n == 1 {
		h.timer.Reset(leftoverDelay)
	}
	h.mu.Unlock()
	if n >= maxLeftovers {
		h.closeAll()
	}
}

// closeAll closes what waits, and returns how many that were.
func (h *heap) closeAll() int {
	h.mu.Lock()
	files := h.files
	h.files = nil
	h.mu.Unlock()
	for _, f := range files {
		f.Close()
	}
	return len(files)
}

// makeRoom reports whether it is worth another attempt to get a descriptor, after one that failed.
func (h *heap) makeRoom(err error) bool {
	return (err == unix.EMFILE || err == unix.ENFILE) && h.closeAll() > 0
}
