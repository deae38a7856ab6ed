package relay

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"ginnel/key"
	"ginnel/relay/internal/derp"
)

// clientLimits bound what a client queues for a relay while it connects or while the connection is
// busy.
var clientLimits = derp.QueueLimits{
	Flow: [derp.NumClasses]int{
		derp.ClassData: 256 << 10, derp.ClassDisco: 16 << 10,
		derp.ClassControl: 8 << 10, derp.ClassPong: derp.PongFrameSize,
	},
	Total: 512 << 10,
	// The first packet is kept until the client is connected: it is usually a WireGuard handshake
	// initiation, which is sent again after 5 s.
	MaxAge: 5 * time.Second,
}

// clientPatience is how long Send may wait for room in the queue.
const clientPatience = 20 * time.Millisecond

// sender turns packets into frames and hands them to an outbox.
type sender struct {
	box      *derp.Outbox
	bucket   atomic.Pointer[rate.Limiter] // rate that the server asked for (2.5); nil means no limit
	counters trafficCounters
}

// trafficCounters count what passed through the connections of a sender.
type trafficCounters struct {
	txPackets, txBytes, drops atomic.Uint64
	rxPackets, rxBytes        atomic.Uint64
	lastHeard                 atomic.Int64 // when bytes came last, in Unix nanoseconds
}

func newSender(wg *sync.WaitGroup) *sender {
	s := new(sender)
	s.box = derp.NewOutbox(wg, &clientLimits, new(derp.Budget), s)
	return s
}

// Sent implements derp.FrameCounter.
func (s *sender) Sent(c derp.Class, frames []byte) {
	if c == derp.ClassData || c == derp.ClassDisco {
		n := derp.CountFrames(frames)
		s.counters.txPackets.Add(uint64(n))
		s.counters.txBytes.Add(uint64(len(frames) - n*derp.SendOverhead))
	}
}

// Dropped implements derp.FrameCounter.
func (s *sender) Dropped(c derp.Class, _ derp.DropReason, frames []byte) {
	if c == derp.ClassData || c == derp.ClassDisco {
		s.counters.drops.Add(uint64(derp.CountFrames(frames)))
	}
}

// limit applies the token bucket of a ServerInfo.
func (s *sender) limit(info derp.ServerInfo) {
	if info.TokenBucketBytesPerSecond <= 0 {
		s.bucket.Store(nil)
		return
	}
	s.bucket.Store(rate.NewLimiter(rate.Limit(info.TokenBucketBytesPerSecond), info.TokenBucketBytesBurst))
}

// send sends packets to one peer; see [Client.Send].
func (s *sender) send(to key.NodePublic, packets [][]byte) error {
	buf := derp.NewBuffer(derp.LargeBuffer)
	defer buf.Free()
	b, cl := buf.B[:0], derp.ClassData
	bucket := s.bucket.Load()
	var tooBig error
	for _, p := range packets {
		if len(p) > derp.MaxPacket {
			tooBig = derp.ErrPacketTooBig
			continue
		}
		size := derp.SendOverhead + len(p)
		if bucket != nil && !bucket.AllowN(time.Now(), size) {
			s.counters.drops.Add(1)
			continue
		}
		c := derp.ClassData
		if derp.LooksLikeDisco(p) {
			c = derp.ClassDisco
		}
		if len(b) > 0 && (c != cl || len(b)+size > derp.BatchSize) {
			if err := s.flush(to, cl, b); err != nil {
				return err
			}
			b = b[:0]
		}
		cl, b = c, derp.AppendSendPacket(b, to, p)
	}
	if err := s.flush(to, cl, b); err != nil {
		return err
	}
	return tooBig
}

func (s *sender) flush(to key.NodePublic, c derp.Class, frames []byte) error {
	if len(frames) == 0 {
		return nil
	}
	patience := clientPatience
	if c != derp.ClassData {
		patience = 0
	}
	_, err := s.box.Send(derp.FlowID{Peer: to, Class: c}, frames, patience)
	return err
}
