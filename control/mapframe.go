package control

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// This file is the framing of map responses (control specification, section 5.3): a little-endian
// length of four bytes, then JSON, either plain or as one zstd frame.

const (
	frameHeader = 4
	// maxFrame and maxDocument are the largest sizes of a frame in bytes, compressed and decompressed.
	// A peer takes about a kilobyte of the document.
	maxFrame    = 16 << 20
	maxDocument = 64 << 20
	// keepBuffer is the capacity in bytes up to which a buffer is reused for the next frame.
	keepBuffer = 256 << 10
)

var (
	errFrameSize    = errors.New("map response has an impossible size")
	errDocumentSize = errors.New("map response is too large to be decompressed")
	errZstd         = errors.New("map response cannot be decompressed")
	errCompression  = errors.New("compression of the map response is unknown")
)

// zstdEncoder and zstdDecoder are shared because their state takes megabytes. Each serves as many
// callers at the same time as there are processors.
var (
	zstdEncoder = newZstdEncoder()
	zstdDecoder = newZstdDecoder()
)

func newZstdEncoder() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	if err != nil {
		panic(fmt.Sprintf("control: zstd refuses its options: %v", err))
	}
	e.EncodeAll(nil, nil) // creates the encoder's channels here, outside the synctest bubble of a test
	return e
}

func newZstdDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxDocument), zstd.WithDecoderMaxWindow(maxDocument))
	if err != nil {
		panic(fmt.Sprintf("control: zstd refuses its options: %v", err))
	}
	return d
}

// AppendFrame appends resp as one frame to b. compress is MapRequest.Compress: empty or
// CompressZstd.
func AppendFrame(b []byte, resp *MapResponse, compress string) ([]byte, error) {
	doc, err := json.Marshal(resp)
	if err != nil {
		return b, fmt.Errorf("encoding a map response: %w", err)
	}
	return appendFrame(b, doc, compress)
}

// KeepAliveFrame returns a keepalive frame. It is the same for every stream with this compression,
// so encode it once.
func KeepAliveFrame(compress string) ([]byte, error) {
	return appendFrame(nil, []byte(`{"KeepAlive":true}`), compress)
}

func appendFrame(b, doc []byte, compress string) ([]byte, error) {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	switch compress {
	case "":
		b = append(b, doc...)
	case CompressZstd:
		b = zstdEncoder.EncodeAll(doc, b)
	default:
		return b[:start], errCompression
	}
	n := len(b) - start - frameHeader
	if len(doc) > maxDocument || n > frameLimit(compress) {
		return b[:start], errFrameSize
	}
	binary.LittleEndian.PutUint32(b[start:], uint32(n))
	return b, nil
}

// frameLimit returns the largest size of a frame in bytes, without its header.
func frameLimit(compress string) int {
	if compress == "" {
		return maxDocument
	}
	return maxFrame
}

// frameReader reads the frames of a stream. After its first error it returns that error for ever.
type frameReader struct {
	src      io.Reader
	compress string
	frame    []byte
	doc      []byte
	err      error
}

// next returns the JSON of the next frame, valid until the next call. The error is io.EOF if the
// stream ends between two frames.
func (r *frameReader) next() ([]byte, error) {
	if r.err == nil {
		var doc []byte
		if doc, r.err = r.read(); r.err == nil {
			return doc, nil
		}
		r.frame, r.doc = nil, nil
	}
	return nil, r.err
}

func (r *frameReader) read() ([]byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r.src, header[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(header[:])
	if n == 0 || int64(n) > int64(frameLimit(r.compress)) {
		return nil, errFrameSize
	}
	var err error
	if r.frame, err = readGrowing(r.src, r.frame[:0], int(n)); err != nil {
		return nil, err
	}
	if r.compress == "" {
		doc := r.frame
		r.frame = keep(r.frame)
		return doc, nil
	}
	if r.doc, err = decompress(r.frame, r.doc[:0]); err != nil {
		return nil, err
	}
	doc := r.doc
	r.frame, r.doc = keep(r.frame), keep(r.doc)
	return doc, nil
}

// decompress appends the contents of one zstd frame to b.
func decompress(frame, b []byte) ([]byte, error) {
	doc, err := zstdDecoder.DecodeAll(frame, b)
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded), len(doc) > maxDocument:
		return nil, errDocumentSize
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errZstd, err)
	}
	return doc, nil
}

// keep returns b for reuse, or nil if it is too large to be held while the stream is idle.
func keep(b []byte) []byte {
	if cap(b) > keepBuffer {
		return nil
	}
	return b
}

// readGrowing appends n bytes of r to b. The buffer grows as bytes arrive, so that a large length
// without data allocates nothing.
func readGrowing(r io.Reader, b []byte, n int) ([]byte, error) {
	for n > 0 {
		if len(b) == cap(b) {
			b = append(b, make([]byte, min(n, max(4096, len(b))))...)[:len(b)]
		}
		m, err := io.ReadFull(r, b[len(b):min(cap(b), len(b)+n)])
		b, n = b[:len(b)+m], n-m
		if err != nil {
			return b, noEOF(err)
		}
	}
	return b, nil
}
