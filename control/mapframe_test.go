package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
)

func TestFramesCutAnywhere(t *testing.T) {
	for _, compress := range []string{"", CompressZstd} {
		one, err := AppendFrame(nil, firstFrame(2), compress)
		if err != nil {
			t.Fatal(err)
		}
		two, err := AppendFrame(one, &MapResponse{Domain: "x"}, compress)
		if err != nil {
			t.Fatal(err)
		}
		for n := range len(two) + 1 {
			r := frameReader{src: iotest.HalfReader(bytes.NewReader(two[:n])), compress: compress}
			frames := 0
			var err error
			for err == nil {
				if _, err = r.next(); err == nil {
					frames++
				}
			}
			want, end := 0, io.ErrUnexpectedEOF
			switch {
			case n == len(two):
				want, end = 2, io.EOF
			case n >= len(one):
				want = 1
			}
			if n == 0 || n == len(one) {
				end = io.EOF
			}
			if frames != want || !errors.Is(err, end) {
				t.Errorf("%q cut to %d bytes: %d frames, %v, want %d, %v", compress, n, frames, err, want, end)
			}
			if _, again := r.next(); again != err {
				t.Errorf("the error does not stay: %v, then %v", err, again)
			}
		}
	}
}

func TestFrameLimits(t *testing.T) {
	for _, c := range []struct {
		name, compress string
		wire           []byte
		want           error
	}{
		{"empty", "", []byte{0, 0, 0, 0}, errFrameSize},
		{"long", "", []byte{1, 0, 0, 4}, errFrameSize},
		{"long compressed", CompressZstd, []byte{1, 0, 0, 1}, errFrameSize},
		{"longest", "", []byte{0xff, 0xff, 0xff, 0xff}, errFrameSize},
		{"no zstd", CompressZstd, []byte{4, 0, 0, 0, 1, 2, 3, 4}, errZstd},
		{"bomb", CompressZstd, bomb(t), errDocumentSize},
	} {
		r := frameReader{src: io.MultiReader(bytes.NewReader(c.wire), neverEnding{}), compress: c.compress}
		if _, err := r.next(); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := AppendFrame(nil, &MapResponse{}, "gzip"); !errors.Is(err, errCompression) {
		t.Errorf("unknown compression: %v", err)
	}
	if b, err := appendFrame([]byte("x"), make([]byte, maxDocument+1), ""); !errors.Is(err, errFrameSize) ||
		string(b) != "x" {
		t.Errorf("a document that is too large: %v", err)
	}
}

// bomb returns a small zstd frame that decompresses to more than maxDocument and does not declare
// its size.
func bomb(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	b.Write(make([]byte, frameHeader))
	e, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range maxDocument>>20 + 1 {
		e.Write(zeros)
	}
	e.Close()
	wire := b.Bytes()
	n := len(wire) - frameHeader
	copy(wire, []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
	return wire
}

// A frame header with a large length and no data behind it does not allocate that much.
func TestFrameLengthAllocatesNothing(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := frameReader{src: bytes.NewReader([]byte{0, 0, 0xf0, 0, 1, 2, 3}), compress: CompressZstd}
	_, err := r.next()
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, io.ErrUnexpectedEOF) || grown > 1<<20 {
		t.Errorf("%v, and %d bytes allocated", err, grown)
	}
}

func TestKeepAliveFrameIsSmall(t *testing.T) {
	for _, compress := range []string{"", CompressZstd} {
		b, err := KeepAliveFrame(compress)
		if err != nil || len(b) > 64 {
			t.Errorf("%q: %d bytes, %v", compress, len(b), err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	for _, v := range vectors(f).Frames {
		f.Add([]byte(v.Wire), v.Compress != "")
	}
	f.Fuzz(func(t *testing.T, b []byte, compressed bool) {
		r := frameReader{src: bytes.NewReader(b)}
		if compressed {
			r.compress = CompressZstd
		}
		for {
			doc, err := r.next()
			if err != nil {
				return
			}
			again, err := appendFrame(nil, doc, r.compress)
			if err != nil && len(doc) > 0 {
				t.Fatal(err)
			}
			if !compressed && !bytes.HasPrefix(b, again) {
				t.Fatal("a frame is not written as it was read")
			}
			b = b[min(len(b), len(again)):]
		}
	})
}

// frameOf returns the encoded first frame of a network with many peers.
func frameOf(b *testing.B, peers int) (frame []byte, size int) {
	b.Helper()
	r := firstFrame(peers)
	for _, n := range r.Peers {
		n.Hostinfo = &Hostinfo{Hostname: n.Name, OS: "linux", IPNVersion: "1.98.0"}
		n.AllowedIPs = n.Addresses
	}
	doc, err := json.Marshal(r)
	if err != nil {
		b.Fatal(err)
	}
	if frame, err = appendFrame(nil, doc, CompressZstd); err != nil {
		b.Fatal(err)
	}
	return frame, len(doc)
}

func BenchmarkReadFrame10000(b *testing.B) {
	frame, size := frameOf(b, 10_000)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		s := stream{frames: frameReader{src: bytes.NewReader(frame), compress: CompressZstd}}
		if m, _, err := s.next(); err != nil || len(m.Peers) != 10_000 {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadPatchFrame(b *testing.B) {
	frame, _ := frameOf(b, 1)
	doc := []byte(`{"PeersChangedPatch":[{"NodeID":1,"Online":true,"Endpoints":["198.51.100.7:41641"]}]}`)
	patch, err := appendFrame(nil, doc, CompressZstd)
	if err != nil {
		b.Fatal(err)
	}
	src := bytes.NewReader(frame)
	s := stream{frames: frameReader{src: src, compress: CompressZstd}}
	s.next()
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(patch)
		if _, _, err := s.next(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendFrame(b *testing.B) {
	r := &MapResponse{PeersChanged: firstFrame(1).Peers}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = AppendFrame(buf[:0], r, CompressZstd); err != nil {
			b.Fatal(err)
		}
	}
}
