package tuning

import (
	"os"

	"ginnel/internal/sys"
)

// netpoller makes Go's scheduler poll the network. It has an eventfd that becomes readable as soon
// as it is written to.
type netpoller struct {
	f   *os.File
	raw interface {
		Read(func(fd uintptr) bool) error
	} // of f
	tryf  func(fd uintptr) bool // try, made once
	tried bool
}

func newNetpoller() (*netpoller, error) {
	f, err := sys.NewEventFD()
	if err != nil {
		return nil, err
	}
	n := &netpoller{f: f}
	if n.raw, err = f.SyscallConn(); err != nil {
		f.Close()
		return nil, err
	}
	n.tryf = n.try
	return n, nil
}

func (n *netpoller) close() { n.f.Close() }

func (n *netpoller) yield() { sys.YieldProcessor() }

func (n *netpoller) poll() {
	n.tried = false
	n.raw.Read(n.tryf)
}

// try writes and reports that there is nothing to read yet. So the goroutine waits until the
// scheduler learns of the write, at its next poll. Nothing is ever read, because epoll reports
// every write anew.
func (n *netpoller) try(fd uintptr) bool {
	if n.tried {
		return true
	}
	n.tried = true
	sys.SignalEventFD(fd)
	return false
}
