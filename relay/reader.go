package relay

import (
	"io"
	"net"
)

// frameReader takes frames from a byte stream, as many at a time as one read brings. While it waits
// for the first byte of a frame it holds no buffer, which is what makes idle connections cheap, and
// while it waits for more of one, it holds no larger one than what has come needs.
//
//	buf   taken │ read, not yet taken │ room for the next read
//	            r                     w
type frameReader struct {
	src  io.Reader
	sock *sock   // at the bottom of src, if what it has read already can be taken together; else nil
	buf  *buffer // nil while nothing is left in it
	r, w int
	dry  bool   // all that has come was read
	skip uint64 // bytes still to come of a frame that is being dropped
	head [headerSize]byte
}

// open makes conn the source.
func (f *frameReader) open(conn net.Conn) {
	f.src = conn
	f.sock, _ = baseOf(conn).(*sock)
}

// preload gives the reader bytes that were read before it took over the stream. Called before the
// first read.
func (f *frameReader) preload(b []byte) {
	if len(b) > 0 {
		f.buf = newBuffer(max(largeBuffer, len(b)))
		f.w = copy(f.buf.b, b)
	}
}

// buffered returns the bytes that have been read but not taken. They are valid until the next read.
func (f *frameReader) buffered() []byte {
	if f.buf == nil {
		return nil
	}
	return f.buf.b[f.r:f.w]
}

// take removes the first n of the buffered bytes. Of a frame to be dropped, n may go beyond them:
// the others are dropped when they come.
func (f *frameReader) take(n uint64) {
	have := uint64(f.w - f.r)
	f.skip += n - min(n, have)
	f.r += int(min(n, have))
}

// read waits for more bytes and returns how many came. It grows the buffer to what the frame at its
// front announces: the caller has seen that header after the last read, and refused it if it was
// too large.
func (f *frameReader) read() (n int, err error) {
	if f.r == f.w && f.skip == 0 {
		n, err = f.readIdle()
	} else {
		f.await()
		f.makeRoom()
		n, err = f.fill()
	}
	if n > 0 {
		n += f.gather()
		drop := min(f.skip, uint64(f.w-f.r))
		f.r += int(drop)
		f.skip -= drop
		return n, nil
	}
	if err == io.EOF && (f.r < f.w || f.skip > 0) {
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

// readIdle waits for a header without a buffer. It does not wait for more: the header may be one to
// refuse.
func (f *frameReader) readIdle() (int, error) {
	f.release()
	n, err := f.src.Read(f.head[:])
	if n > 0 {
		f.buf = newBuffer(largeBuffer)
		f.w = copy(f.buf.b, f.head[:n])
	}
	return n, err
}

func (f *frameReader) fill() (int, error) {
	n, err := f.src.Read(f.buf.b[f.w:])
	f.w += n
	return n, err
}

// gather adds what has come already, up to the end of the buffer: packets that are passed on
// together cost less.
func (f *frameReader) gather() (all int) {
	if f.sock == nil {
		return 0
	}
	for f.dry = false; f.w < len(f.buf.b); {
		var n int
		if n, f.dry = f.sock.readMore(f.src, f.buf.b[f.w:]); n == 0 {
			break
		}
		f.w += n
		all += n
	}
	return all
}

// await waits for more with what is left in a buffer of its size.
func (f *frameReader) await() {
	if f.sock == nil || !f.dry || f.buf == nil {
		return
	}
	left := f.buffered()
	if small := newBuffer(len(left)); len(small.b) < len(f.buf.b) {
		f.r, f.w = 0, copy(small.b, left)
		f.buf.free()
		f.buf = small
	} else {
		small.free()
	}
	f.sock.await()
}

// makeRoom moves what is left to the front of a buffer that holds the whole frame.
func (f *frameReader) makeRoom() {
	left := f.buffered()
	need := largeBuffer
	if len(left) >= headerSize && f.skip == 0 {
		need = max(need, frameSize(left))
	}
	if f.buf == nil || need > len(f.buf.b) {
		bigger := newBuffer(need)
		copy(bigger.b, left)
		f.buf.free()
		f.buf = bigger
	} else if f.r > 0 {
		copy(f.buf.b, left)
	}
	f.r, f.w = 0, len(left)
}

// release gives the buffer back.
func (f *frameReader) release() {
	f.buf.free()
	f.buf, f.r, f.w = nil, 0, 0
}
