package load

import (
	"encoding/binary"
	"errors"
	"math"
)

// The kinds of requests and datagrams; see the package's comment.
const (
	wantStream   = 'S'
	wantEcho     = 'E'
	wantAnswer   = 'Q'
	wantFetch    = 'G'
	wantStore    = 'P'
	datagramData = 'D'
	datagramAsk  = 'C'
)

const (
	requestSize = 8
	countSize   = 8
	messageSize = 64        // of a round trip
	countStep   = 128 << 10 // between counts where nothing else is sent
	spoilt      = math.MaxUint64
)

// errSpoilt reports bytes that are not those that were sent.
var errSpoilt = errors.New("load: the bytes that arrived are not those that were sent")

func request(kind byte, cc Congestion, size int) []byte {
	b := make([]byte, requestSize)
	b[0], b[1] = kind, cc.code()
	binary.BigEndian.PutUint32(b[4:], uint32(size))
	return b
}

// frames takes a stream of frames apart. It is fed with whatever a read returned.
type frames struct {
	size    int    // of a frame's piece of the pattern
	at      int    // in the frame
	offset  uint64 // in the pattern
	header  [countSize]byte
	counted uint64 // the last count
}

// feed returns how many bytes of b were of the pattern.
func (f *frames) feed(b []byte) (uint64, error) {
	before := f.offset
	for len(b) > 0 {
		if f.at < countSize {
			n := copy(f.header[f.at:], b)
			f.at, b = f.at+n, b[n:]
			if f.at == countSize {
				f.counted = binary.BigEndian.Uint64(f.header[:])
				if f.counted == spoilt {
					return f.offset - before, errSpoilt
				}
				f.wrap()
			}
			continue
		}
		n := min(len(b), countSize+f.size-f.at)
		if !matches(b[:n], f.offset) {
			return f.offset - before, errSpoilt
		}
		f.at, f.offset, b = f.at+n, f.offset+uint64(n), b[n:]
		f.wrap()
	}
	return f.offset - before, nil
}

// wrap begins the next frame at the end of one.
func (f *frames) wrap() {
	if f.at == countSize+f.size {
		f.at = 0
	}
}

// datagramHeader is the kind, the run and the sequence number.
const datagramHeader = 1 + 8 + 8

func appendDatagram(b []byte, kind byte, run, seq uint64, size int) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, run)
	b = binary.BigEndian.AppendUint64(b, seq)
	return append(b, piece(seq, size-datagramHeader)...)
}

// parseDatagram reports whether it is whole, too.
func parseDatagram(b []byte) (kind byte, run, seq uint64, ok bool) {
	if len(b) < datagramHeader {
		return 0, 0, 0, false
	}
	run, seq = binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:])
	return b[0], run, seq, matches(b[datagramHeader:], seq)
}
