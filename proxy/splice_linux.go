package proxy

import (
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"ginnel/internal/sys"
)

const (
	pipeSize = 1 << 20 // asked for; the system may give less
	maxPipes = 2       // kept for the next bursts
)

// pipe is what splice(2) moves bytes through. It is empty between bursts.
type pipe struct{ r, w int }

// pipes are those that nobody uses, for the process.
var pipes = make(chan pipe, maxPipes)

// takePipe returns an empty pipe.
func takePipe() (pipe, error) {
	select {
	case p := <-pipes:
		return p, nil
	default:
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return pipe{}, os.NewSyscallError("pipe2", err)
	}
	unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // or what it is without
	return pipe{fds[0], fds[1]}, nil
}

// release keeps p for others, if it is empty and there is room.
func (p pipe) release(empty bool) {
	if empty {
		select {
		case pipes <- p:
			return
		default:
		}
	}
	unix.Close(p.r)
	unix.Close(p.w)
}

// tcpSocket returns x's descriptor if it is a TCP socket of this host, or nil.
func tcpSocket(x any) syscall.RawConn {
	if !sys.IsTCP(x) {
		return nil
	}
	raw, err := x.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// splice moves n bytes that wait in src to dst, or as many of them as it can without a failure of
// its own: there may be no descriptors left for a pipe.
func splice(dst, src syscall.RawConn, n int) (done int64, err error) {
	p, err := takePipe()
	if err != nil {
		return 0, nil
	}
	empty := true
	defer func() { p.release(empty) }()
	for n > 0 {
		got := p.fill(src, n)
		if got == 0 {
			return done, nil
		}
		n -= got
		moved, err := p.drain(dst, got)
		done += int64(moved)
		if err != nil {
			empty = moved == got
			return done, err
		}
	}
	return done, nil
}

// fill takes what there is, without waiting. What keeps it from that, the next read will tell.
func (p pipe) fill(src syscall.RawConn, n int) (got int) {
	src.Control(func(fd uintptr) { got, _ = sys.Splice(fd, uintptr(p.w), n) })
	return got
}

// drain gives n bytes to dst.
func (p pipe) drain(dst syscall.RawConn, n int) (done int, err error) {
	var failed error
	err = dst.Write(func(fd uintptr) bool {
		for done < n {
			var moved int
			if moved, failed = sys.Splice(uintptr(p.r), fd, n-done); failed != nil {
				return failed != unix.EAGAIN
			}
			if moved == 0 {
				failed = io.ErrUnexpectedEOF // for the pipe has more
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
