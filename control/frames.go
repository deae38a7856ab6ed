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
// length of four bytes, then JSON, as it is or as one zstd frame of its own.

const (
	frameHeader = 4
	// maxFrame and maxDocument are the sizes in bytes that a frame may have before and after it is
	// decompressed. A peer takes about a kilobyte of the document.
	maxFrame    = 16 << 20
	maxDocument = 64 << 20
	// keepBuffer is the size of buffers that are kept from one frame to the next.
	keepBuffer = 256 << 10
)

var (
	errFrameSize    = errors.New("map response has an impossible size")
	errDocumentSize = errors.New("map response is too large to be decompressed")
	errZstd         = errors.New("map response cannot be decompressed")
	errCompression  = errors.New("compression is not known")
)

// zstdEncoder and zstdDecoder hold memory worth sharing, and work on whole frames for as many
// callers at a time as there are processors.
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
	e.EncodeAll(nil, nil) // it makes its channels now, and not in the test that comes first
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

// AppendFrame appends resp as one frame. The compression is that of the MapRequest: empty or
// CompressZstd.
func AppendFrame(b []byte, resp *MapResponse, compress string) ([]byte, error) {
	doc, err := json.Marshal(resp)
	if err != nil {
		return b, fmt.Errorf("encoding a map response: %w", err)
	}
	return appendFrame(b, doc, compress)
}

// KeepAliveFrame returns the frame that says nothing but that the stream is alive. It is always the
// same: encode it once.
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

// frameLimit returns how long a frame may be.
func frameLimit(compress string) int {
	if compress == "" {
		return maxDocument
	}
	return maxFrame
}

// frameReader reads the frames of a stream. Its first error is returned for ever.
type frameReader struct {
	src      io.Reader
	compress string
	frame    []byte
	doc      []byte
	err      error
}

// next returns the JSON of the next frame, valid until the next call. It is io.EOF between two
// frames.
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
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) || len(doc) > maxDocument {
		return nil, errDocumentSize
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errZstd, err)
	}
	return doc, nil
}

// keep returns b for further use, unless it is too large to lie around until the next large frame.
func keep(b []byte) []byte {
	if cap(b) > keepBuffer {
		return nil
	}
	return b
}

// readGrowing appends n bytes of r to b. The buffer grows as they come: a length alone costs nobody
// memory.
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
