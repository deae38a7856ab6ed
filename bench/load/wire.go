package load

import (
	"encoding/binary"
	"errors"
	"math"
)

// The kinds of requests and datagrams (see the package comment).
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
	messageSize = 64             // message of a round trip
	countStep   = 128 << 10      // bytes between two counts without pattern data
	corrupt     = math.MaxUint64 // count that reports corrupt data
)

// errCorrupt reports bytes that differ from those sent.
var errCorrupt = errors.New("load: received bytes differ from those sent")

func request(kind byte, cc Congestion, size int) []byte {
	b := make([]byte, requestSize)
	b[0], b[1] = kind, cc.code()
	binary.BigEndian.PutUint32(b[4:], uint32(size))
	return b
}

// frames parses a stream of frames, in pieces of any length.
type frames struct {
	size    int    // pattern bytes in a frame
	at      int    // position in the frame
	offset  uint64 // position in the pattern
	header  [countSize]byte
	counted uint64 // the last count
}

// feed parses b and returns how many pattern bytes it had.
func (f *frames) feed(b []byte) (uint64, error) {
	before := f.offset
	for len(b) > 0 {
		if f.at < countSize {
			n := copy(f.header[f.at:], b)
			f.at, b = f.at+n, b[n:]
			if f.at == countSize {
				f.counted = binary.BigEndian.Uint64(f.header[:])
				if f.counted == corrupt {
					return f.offset - before, errCorrupt
				}
				f.wrap()
			}
			continue
		}
		n := min(len(b), countSize+f.size-f.at)
		if !matches(b[:n], f.offset) {
			return f.offset - before, errCorrupt
		}
		f.at, f.offset, b = f.at+n, f.offset+uint64(n), b[n:]
		f.wrap()
	}
	return f.offset - before, nil
}

// wrap starts the next frame if the current one is complete.
func (f *frames) wrap() {
	if f.at == countSize+f.size {
		f.at = 0
	}
}

// datagramHeader is the length of kind, run and sequence number.
const datagramHeader = 1 + 8 + 8

func appendDatagram(b []byte, kind byte, run, seq uint64, size int) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, run)
	b = binary.BigEndian.AppendUint64(b, seq)
	return append(b, piece(seq, size-datagramHeader)...)
}

// parseDatagram parses a datagram. It reports ok if the pattern is intact.
func parseDatagram(b []byte) (kind byte, run, seq uint64, ok bool) {
	if len(b) < datagramHeader {
		return 0, 0, 0, false
	}
	run, seq = binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:])
	return b[0], run, seq, matches(b[datagramHeader:], seq)
}
