//go:build linux && !ginnel_stdnet

package sys

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	pipeSize = 1 << 20 // asked for; the kernel may give less
	maxPipes = 2       // kept for later bursts
)

// pipe is what splice(2) moves bytes through. It is empty when nobody uses it.
type pipe struct{ r, w int }

// pipes holds unused pipes of the process.
var idlePipes = make(chan pipe, maxPipes)

// takePipe returns an empty pipe.
func takePipe() (pipe, error) {
	select {
	case p := <-idlePipes:
		return p, nil
	default:
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return pipe{}, os.NewSyscallError("pipe2", err)
	}
	unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // otherwise it has 64 KiB
	return pipe{fds[0], fds[1]}, nil
}

// keep makes an empty pipe available to later calls, or closes it if there are enough.
func (p pipe) keep() {
	select {
	case idlePipes <- p:
	default:
		p.close()
	}
}

func (p pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

func spliceAll(dst, src RawConn, n int) (done int64, err error) {
	p, err := takePipe()
	if err != nil {
		return 0, nil
	}
	for n > 0 {
		got := p.fill(src, n)
		if got == 0 {
			break
		}
		n -= got
		moved, err := p.drain(dst, got)
		done += int64(moved)
		if err != nil {
			p.close() // because it may hold bytes of this connection
			return done, err
		}
	}
	p.keep()
	return done, nil
}

// fill takes up to n bytes that have arrived, without waiting. The next read of src reports an
// error that stops it.
func (p pipe) fill(src RawConn, n int) (got int) {
	src.Control(func(fd uintptr) { got, _ = splice(fd, uintptr(p.w), n) })
	return got
}

// drain moves n bytes to dst, and waits for room.
func (p pipe) drain(dst RawConn, n int) (done int, err error) {
	var failed error
	err = dst.Write(func(fd uintptr) bool {
		for done < n {
			var moved int
			if moved, failed = splice(uintptr(p.r), fd, n-done); failed != nil {
				return failed != ErrWouldBlock
			}
			if moved == 0 {
				failed = io.ErrUnexpectedEOF // the pipe holds more
				return true
			}
			done += moved
		}
		return true
	})
	if err == nil && failed != nil {
		err = os.NewSyscallError("splice", failed)
	}
	return done, err
}
