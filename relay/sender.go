package relay

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"ginnel/internal/key"
)

// clientLimits bound what a client queues for a relay: while it connects, or when the line is full.
var clientLimits = queueLimits{
	flow:  [numClasses]int{classData: 256 << 10, classDisco: 16 << 10, classControl: 8 << 10, classPong: pongFrameSize},
	total: 512 << 10,
	// The first packet is kept until the connection stands: it is a WireGuard handshake, repeated
	// after 5 s.
	maxAge: 5 * time.Second,
}

// clientPatience is how long Send may wait for room.
const clientPatience = 20 * time.Millisecond

// batchSize is what goes into one write, in bytes: four full TLS records.
const batchSize = 64 << 10

// sender makes frames of packets and hands them to an outbox.
type sender struct {
	box    *outbox
	bucket atomic.Pointer[rate.Limiter] // what the server asked the client to keep to (2.5); nil is no limit
	tally  tally
}

// tally counts what passed through the connections of a sender.
type tally struct {
	txPackets, txBytes, drops atomic.Uint64
	rxPackets, rxBytes        atomic.Uint64
	lastHeard                 atomic.Int64 // when anything came, in Unix nanoseconds
}

func newSender(wg *sync.WaitGroup) *sender {
	s := new(sender)
	s.box = newOutbox(wg, &clientLimits, new(budget), s)
	return s
}

// sent implements ledger.
func (s *sender) sent(c class, frames []byte) {
	if c == classData || c == classDisco {
		n := countFrames(frames)
		s.tally.txPackets.Add(uint64(n))
		s.tally.txBytes.Add(uint64(len(frames) - n*sendOverhead))
	}
}

// dropped implements ledger.
func (s *sender) dropped(c class, _ dropReason, frames []byte) {
	if c == classData || c == classDisco {
		s.tally.drops.Add(uint64(countFrames(frames)))
	}
}

// limit applies the token bucket of a ServerInfo.
func (s *sender) limit(info serverInfo) {
	if info.TokenBucketBytesPerSecond <= 0 {
		s.bucket.Store(nil)
		return
	}
	s.bucket.Store(rate.NewLimiter(rate.Limit(info.TokenBucketBytesPerSecond), info.TokenBucketBytesBurst))
}

// send sends packets to one peer; see Client.Send.
func (s *sender) send(to key.NodePublic, packets [][]byte) error {
	buf := newBuffer(largeBuffer)
	defer buf.free()
	b, cl := buf.b[:0], classData
	bucket := s.bucket.Load()
	var tooBig error
	for _, p := range packets {
		if len(p) > MaxPacket {
			tooBig = errPacketTooBig
			continue
		}
		size := sendOverhead + len(p)
		if bucket != nil && !bucket.AllowN(time.Now(), size) {
			s.tally.drops.Add(1)
			continue
		}
		c := classData
		if looksLikeDisco(p) {
			c = classDisco
		}
		if len(b) > 0 && (c != cl || len(b)+size > batchSize) {
			if err := s.flush(to, cl, b); err != nil {
				return err
			}
			b = b[:0]
		}
		cl, b = c, appendSendPacket(b, to, p)
	}
	if err := s.flush(to, cl, b); err != nil {
		return err
	}
	return tooBig
}

func (s *sender) flush(to key.NodePublic, c class, frames []byte) error {
	if len(frames) == 0 {
		return nil
	}
	patience := clientPatience
	if c != classData {
		patience = 0
	}
	_, err := s.box.send(flowID{to, c}, frames, patience)
	return err
}
