package proxy

import (
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"ginnel/internal/hostsock"
	"ginnel/internal/nonblock"
)

const (
	pipeSize = 1 << 20 // bytes; the system may grant less
	maxPipes = 2       // kept in idlePipes
)

// pipe is the pipe through which splice(2) moves bytes from one socket to another. It is empty
// between bursts.
type pipe struct{ r, w int }

// idlePipes holds the pipes that the process keeps for the next bursts.
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
	unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // best effort: the default size works too
	return pipe{fds[0], fds[1]}, nil
}

// keep puts p, which must be empty, into idlePipes, or closes it if there are enough.
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

// tcpSocket returns the descriptor of c if c is a TCP socket of this host, otherwise nil.
func tcpSocket(c io.Closer) syscall.RawConn {
	if !hostsock.IsTCP(c) {
		return nil
	}
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// splice moves n bytes that are unread in src to dst. It may move fewer: if there is no descriptor
// for a pipe it moves none, and returns no error, because the bytes can still be copied.
func splice(dst, src syscall.RawConn, n int) (done int64, err error) {
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

// fill moves up to n bytes from src into p, without waiting. It ignores errors, because the next
// read reports them.
func (p pipe) fill(src syscall.RawConn, n int) (got int) {
	src.Control(func(fd uintptr) { got, _ = nonblock.Splice(fd, uintptr(p.w), n) })
	return got
}

// drain moves n bytes from p to dst. It waits while dst cannot take them.
func (p pipe) drain(dst syscall.RawConn, n int) (done int, err error) {
	var failed error
	err = dst.Write(func(fd uintptr) bool {
		for done < n {
			var moved int
			if moved, failed = nonblock.Splice(uintptr(p.r), fd, n-done); failed != nil {
				return failed != unix.EAGAIN
			}
			if moved == 0 {
				failed = io.ErrUnexpectedEOF // the pipe still holds bytes
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
