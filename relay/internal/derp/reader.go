package derp

import (
	"io"
	"net"
)

// FrameReader takes frames from a byte stream, as many at a time as one read brings. While it waits
// for the first byte of a frame it holds no buffer, so idle connections need little memory. While
// it waits for the rest of a frame, it holds the smallest buffer for what has come.
//
//	buf   taken │ read, not yet taken │ room for the next read
//	            r                     w
type FrameReader struct {
	src     io.Reader
	sock    *sock   // the lowest layer of src, if it can hand out what it has read already; else nil
	buf     *buffer // nil while it would be empty
	r, w    int
	drained bool   // all bytes that have come were read
	skip    uint64 // bytes still to come of a frame that is being dropped
	header  [HeaderSize]byte
}

// Open makes src the source.
func (f *FrameReader) Open(src io.Reader) {
	f.src = src
	if conn, ok := src.(net.Conn); ok {
		f.sock, _ = BaseOf(conn).(*sock)
	}
}

// Preload gives the reader bytes that were read before it took over the stream. It must be called
// before the first Read.
func (f *FrameReader) Preload(b []byte) {
	if len(b) > 0 {
		f.buf = NewBuffer(max(LargeBuffer, len(b)))
		f.w = copy(f.buf.B, b)
	}
}

// Buffered returns the bytes that have been read and not taken. They are valid until the next Read.
func (f *FrameReader) Buffered() []byte {
	if f.buf == nil {
		return nil
	}
	return f.buf.B[f.r:f.w]
}

// Take removes the first n of the buffered bytes. To drop a frame, n may exceed them: the rest is
// dropped when it comes.
func (f *FrameReader) Take(n uint64) {
	have := uint64(f.w - f.r)
	f.skip += n - min(n, have)
	f.r += int(min(n, have))
}

// Read waits for more bytes and returns how many came. It grows the buffer to the size that the
// frame at its front announces; the caller has seen that header after the last Read and has refused
// it if it was too large.
func (f *FrameReader) Read() (n int, err error) {
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

// readIdle waits for a header without a buffer. It does not read further, because the caller may
// have to refuse the header.
func (f *FrameReader) readIdle() (int, error) {
	f.Release()
	n, err := f.src.Read(f.header[:])
	if n > 0 {
		f.buf = NewBuffer(LargeBuffer)
		f.w = copy(f.buf.B, f.header[:n])
	}
	return n, err
}

func (f *FrameReader) fill() (int, error) {
	n, err := f.src.Read(f.buf.B[f.w:])
	f.w += n
	return n, err
}

// gather adds the bytes that have come already, up to the end of the buffer. Packets that are
// passed on together cost less.
func (f *FrameReader) gather() (all int) {
	if f.sock == nil {
		return 0
	}
	for f.drained = false; f.w < len(f.buf.B); {
		var n int
		if n, f.drained = f.sock.readMore(f.src, f.buf.B[f.w:]); n == 0 {
			break
		}
		f.w += n
		all += n
	}
	return all
}

// await waits for more bytes while it holds what is left in a buffer of the smallest size.
func (f *FrameReader) await() {
	if f.sock == nil || !f.drained || f.buf == nil {
		return
	}
	left := f.Buffered()
	if small := NewBuffer(len(left)); len(small.B) < len(f.buf.B) {
		f.r, f.w = 0, copy(small.B, left)
		f.buf.Free()
		f.buf = small
	} else {
		small.Free()
	}
	f.sock.await()
}

// makeRoom moves what is left to the front of a buffer that holds the whole frame.
func (f *FrameReader) makeRoom() {
	left := f.Buffered()
	need := LargeBuffer
	if len(left) >= HeaderSize && f.skip == 0 {
		need = max(need, FrameSize(left))
	}
	if f.buf == nil || need > len(f.buf.B) {
		bigger := NewBuffer(need)
		copy(bigger.B, left)
		f.buf.Free()
		f.buf = bigger
	} else if f.r > 0 {
		copy(f.buf.B, left)
	}
	f.r, f.w = 0, len(left)
}

// Release returns the buffer.
func (f *FrameReader) Release() {
	f.buf.Free()
	f.buf, f.r, f.w = nil, 0, 0
}
