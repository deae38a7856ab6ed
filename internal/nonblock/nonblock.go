//go:build unix

// Package nonblock makes system calls on sockets that do not block, without telling Go's scheduler.
// It would expect each to block: it wakes the thread that watches over such calls whenever it
// sleeps, which it does in a process that waits for the network, and that thread then takes the
// processor away from a call that is slow because it copies much. For calls that return at once all
// of this is in vain, and costs more than they do.
//
// A socket of package net is such a one; syscall.RawConn lends its descriptor. All calls but
// Connect are repeated when a signal interrupts them, and errors are of type syscall.Errno. Waiting
// is there only on Linux.
package nonblock

// Read reads what there is, up to len(b) bytes. At the end of a stream it returns 0 and no error.
func Read(fd uintptr, b []byte) (int, error) {
	n, err := read(fd, b)
	if err == nil {
		afterRead(fd)
	}
	return n, err
}

// Write writes as much of b as there is room for.
func Write(fd uintptr, b []byte) (int, error) {
	beforeWrite()
	return write(fd, b)
}

// Poll returns those of the events, as poll(2) names them, that hold now; errors and the end of a
// connection are always among those asked for. It returns 0 if it fails.
func Poll(fd uintptr, events int16) int16 { return poll(fd, events) }
