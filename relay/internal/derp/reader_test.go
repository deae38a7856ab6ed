package derp

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"testing"
)

// chunkReader yields random pieces of b.
type chunkReader struct {
	rnd *rand.Rand
	b   []byte
	max int
}

func (r *chunkReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b[:min(len(r.b), 1+r.rnd.IntN(r.max))])
	r.b = r.b[n:]
	return n, nil
}

// The frames that come out do not depend on the pieces in which the stream comes. Some frames are
// small, some are the largest, and some, larger than any buffer, are dropped unread.
func TestReaderPieces(t *testing.T) {
	noise := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		var stream []byte
		var want [][]byte
		for range 60 {
			size := rnd.IntN(1500)
			typ := FrameSendPacket
			switch rnd.IntN(12) {
			case 0:
				size = rnd.IntN(MaxPacket + 1)
			case 1:
				size, typ = rnd.IntN(300_000), 0x7f
			case 2:
				size = 0
			}
			from := rnd.IntN(len(noise) - size + 1)
			frame := append(AppendHeader(nil, typ, size), noise[from:from+size]...)
			stream = append(stream, frame...)
			if typ != 0x7f {
				want = append(want, frame)
			}
		}
		early := rnd.IntN(3000)
		f := &FrameReader{src: &chunkReader{rnd: rnd, b: stream[early:], max: 1 << rnd.IntN(16)}}
		f.Preload(stream[:early])
		got, err := readFrames(f)
		if err != io.EOF || len(got) != len(want) {
			t.Fatalf("seed %d: %d frames and %v, want %d", seed, len(got), err, len(want))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("seed %d: frame %d differs", seed, i)
			}
		}
		if f.buf != nil {
			t.Errorf("seed %d: a buffer is held between frames", seed)
		}
	}
}

// readFrames returns all frames but those of type 0x7f.
func readFrames(f *FrameReader) (frames [][]byte, err error) {
	for {
		for {
			b := f.Buffered()
			t, n, ok := ParseHeader(b)
			if !ok {
				break
			}
			size := HeaderSize + int(n)
			if t == 0x7f {
				f.Take(uint64(size))
				continue
			}
			if len(b) < size {
				break
			}
			frames = append(frames, bytes.Clone(b[:size]))
			f.Take(uint64(size))
		}
		if _, err := f.Read(); err != nil {
			return frames, err
		}
	}
}

// A stream that ends inside a frame, kept or dropped, ends with io.ErrUnexpectedEOF.
func TestReaderTruncated(t *testing.T) {
	for _, frame := range [][]byte{testFrames(1, 0, 1, 100), append(AppendHeader(nil, 0x7f, 95), make([]byte, 95)...)} {
		for n := 1; n < len(frame); n++ {
			f := &FrameReader{src: bytes.NewReader(frame[:n])}
			if got, err := readFrames(f); err != io.ErrUnexpectedEOF || len(got) != 0 {
				t.Fatalf("%#x cut to %d bytes: %d frames, %v", frame[0], n, len(got), err)
			}
		}
	}
}

// A reader holds no memory for a frame that is too large, after it has seen the header.
func TestReaderTrustsNoHeader(t *testing.T) {
	header := AppendHeader(nil, FrameSendPacket, math.MaxInt32)
	f := &FrameReader{src: io.MultiReader(bytes.NewReader(header), &errReader{errors.New("end of test")})}
	f.Read()
	if f.buf != nil && len(f.buf.B) > LargeBuffer {
		t.Errorf("%d bytes held for a header", len(f.buf.B))
	}
}

type errReader struct{ err error }

func (r *errReader) Read([]byte) (int, error) { return 0, r.err }
