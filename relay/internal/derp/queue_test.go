package derp

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"ginnel/key"
)

// testLimits are those of the queue from a server to a client.
var testLimits = QueueLimits{
	Flow: [NumClasses]int{ClassData: 256 << 10, ClassDisco: 16 << 10, ClassControl: 32 << 10,
		ClassPong: PongFrameSize},
	Total:  1 << 20,
	MaxAge: time.Second,
}

// testCounter counts packets.
type testCounter struct {
	sentFrames int
	drops      [NumDropReasons]int
}

func (l *testCounter) Sent(_ Class, frames []byte) { l.sentFrames += CountFrames(frames) }

func (l *testCounter) Dropped(_ Class, r DropReason, frames []byte) {
	l.drops[r] += CountFrames(frames)
}

func newTestQueue(limits QueueLimits) (*flowQueue, *testCounter) {
	l := new(testCounter)
	return &flowQueue{limits: &limits, budget: new(Budget), counter: l}, l
}

// testFlow returns the flow with a number.
func testFlow(n int, c Class) FlowID {
	return FlowID{Peer: key.NodePublic{byte(n), byte(n >> 8), 1}, Class: c}
}

// testFrames returns count frames of size bytes each. Each packet begins with the numbers of its
// flow and of itself.
func testFrames(flow, first, count, size int) []byte {
	var b []byte
	for i := range count {
		packet := make([]byte, size-SendOverhead)
		copy(packet, fmt.Sprintf("%d/%d.", flow, first+i))
		b = AppendSendPacket(b, key.NodePublic{byte(flow)}, packet)
	}
	return b
}

// drainQueue takes everything out of the queue and returns the names of the packets in order.
func drainQueue(q *flowQueue, now time.Time) (names []string) {
	for {
		s, ok := q.next(quantum, now)
		if !ok {
			return names
		}
		for f := s.frames; len(f) > 0; f = f[FrameSize(f):] {
			if s.class == ClassControl {
				names = append(names, "control")
				continue
			}
			name, _, _ := bytes.Cut(f[SendOverhead:], []byte("."))
			names = append(names, string(name))
		}
		q.release(s)
	}
}

func TestQueueKeepsOrderAndGivesMemoryBack(t *testing.T) {
	q, _ := newTestQueue(testLimits)
	now := time.Now()
	var want []string
	for i := 0; i < 100; i += 10 {
		if rest := q.push(testFlow(1, ClassData), testFrames(1, i, 10, 1000), now); rest != nil {
			t.Fatalf("%d bytes refused after %d frames", len(rest), i)
		}
		for j := range 10 {
			want = append(want, fmt.Sprintf("1/%d", i+j))
		}
	}
	if q.budget.used.Load() < 100_000 {
		t.Errorf("%d bytes accounted for 100 kB", q.budget.used.Load())
	}
	if got := drainQueue(q, now); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v", got)
	}
	if n := q.budget.used.Load(); n != 0 || !q.empty() || len(q.flows) != 0 {
		t.Errorf("%d bytes, %d flows left", n, len(q.flows))
	}
}

// A flow cannot exceed its limit, and all flows together can exceed the total only by little.
func TestQueueBounds(t *testing.T) {
	q, _ := newTestQueue(testLimits)
	now := time.Now()
	rest := q.push(testFlow(0, ClassData), testFrames(0, 0, 1000, 1000), now)
	if got := 1000*1000 - len(rest); got > testLimits.Flow[ClassData] || got < testLimits.Flow[ClassData]-1000 {
		t.Errorf("one flow took %d bytes, limit %d", got, testLimits.Flow[ClassData])
	}
	total := 0
	frames := testFrames(0, 0, 300, 1000)
	for i := range 200 {
		q.push(testFlow(i, ClassData), frames, now)
	}
	for _, f := range q.flows {
		total += f.bytes
	}
	if most := 5 * testLimits.Total; total > most {
		t.Errorf("200 flows took %d bytes, want at most %d", total, most)
	}
	for i := range 3 {
		if rest := q.push(testFlow(i, ClassPong), AppendPong(nil, PingData{}), now); rest != nil {
			t.Errorf("first pong refused")
		}
		if rest := q.push(testFlow(i, ClassPong), AppendPong(nil, PingData{}), now); rest == nil {
			t.Errorf("second pong accepted (3.11)")
		}
	}
}

func TestQueueBudget(t *testing.T) {
	q, _ := newTestQueue(testLimits)
	q.budget.limit = 40 << 10
	rest := q.push(testFlow(1, ClassData), testFrames(1, 0, 100, 1000), time.Now())
	if n := q.budget.used.Load(); len(rest) == 0 || n > q.budget.limit || n == 0 {
		t.Errorf("%d bytes of a budget of %d in use, %d refused", n, q.budget.limit, len(rest))
	}
	if !q.refuses(testFlow(2, ClassData)) {
		t.Error("a flow that gets nothing of the budget is worth waiting for")
	}
	q.discard(dropGone)
	if n := q.budget.used.Load(); n != 0 {
		t.Errorf("%d bytes still in use", n)
	}
}

// The largest frame passes any empty queue uncut.
func TestQueueLargestFrame(t *testing.T) {
	limits := testLimits
	limits.Flow[ClassData] = 1000
	q, _ := newTestQueue(limits)
	frame := testFrames(1, 0, 1, SendOverhead+MaxPacket)
	if rest := q.push(testFlow(1, ClassData), frame, time.Now()); rest != nil {
		t.Fatal("refused")
	}
	if rest := q.push(testFlow(1, ClassData), testFrames(1, 1, 1, 100), time.Now()); rest == nil {
		t.Error("a second frame is accepted beyond the limit")
	}
	if s, ok := q.next(quantum, time.Now()); !ok || !bytes.Equal(s.frames, frame) {
		t.Error("frame did not come out whole")
	}
}

// Packets that are too old are dropped at the head and make room for new ones.
func TestQueueExpires(t *testing.T) {
	q, l := newTestQueue(testLimits)
	t0 := time.Now()
	q.push(testFlow(1, ClassData), testFrames(1, 0, 1000, 1000), t0)
	q.push(FlowID{Class: ClassControl}, AppendKeepAlive(nil), t0)
	late := t0.Add(testLimits.MaxAge + time.Millisecond)
	if rest := q.push(testFlow(1, ClassData), testFrames(1, 1000, 200, 1000), late); rest != nil {
		t.Errorf("%d bytes refused although all there is has expired", len(rest))
	}
	got := drainQueue(q, late)
	if len(got) != 201 || got[0] != "control" && got[0] != "1/1000" || l.drops[dropQueueHead] != 262 {
		t.Errorf("%d dropped, %d left, first %q; want all of the old ones dropped", l.drops[dropQueueHead], len(got),
			got[0])
	}
	q.push(testFlow(1, ClassData), testFrames(1, 0, 3, 1000), t0)
	q.push(FlowID{Class: ClassControl}, AppendKeepAlive(nil), t0)
	if got := drainQueue(q, late); len(got) != 1 || got[0] != "control" {
		t.Errorf("got %q, want the KeepAlive alone: it never expires", got)
	}
}

// Three senders share the receiver equally, whatever their packet sizes and rates.
func TestQueueFairness(t *testing.T) {
	q, _ := newTestQueue(testLimits)
	now := time.Now()
	sizes := []int{100, 1400, 9000}
	var bulk [][]byte
	for i, size := range sizes {
		bulk = append(bulk, testFrames(i, 0, 30_000*(i+1)/size, size))
	}
	got := make([]int, len(sizes))
	for range 2000 {
		for i := range sizes {
			q.push(testFlow(i, ClassData), bulk[i], now)
		}
		s, ok := q.next(quantum, now)
		if !ok {
			t.Fatal("nothing queued")
		}
		got[s.frames[HeaderSize]] += len(s.frames)
		q.release(s)
	}
	for i := range got {
		if ratio := float64(got[i]) / float64(got[0]); ratio < 0.95 || ratio > 1.05 {
			t.Errorf("shares %v: flow %d has %.2f of flow 0", got, i, ratio)
		}
	}
}

// A disco packet soon passes a queue full of bulk packets.
func TestQueueDiscoPassesBulk(t *testing.T) {
	q, _ := newTestQueue(testLimits)
	now := time.Now()
	for i := range 4 {
		q.push(testFlow(i, ClassData), testFrames(i, 0, 1000, 1400), now)
	}
	if rest := q.push(testFlow(0, ClassDisco), testFrames(9, 0, 1, 150), now); rest != nil {
		t.Fatal("disco packet refused")
	}
	for taken := 0; taken <= 5*quantum; {
		s, ok := q.next(quantum, now)
		if !ok {
			break
		}
		if s.class == ClassDisco {
			return
		}
		taken += len(s.frames)
		q.release(s)
	}
	t.Error("disco packet still waits after each flow had its turn")
}

// The queue behaves as a naive one that has a list for each flow.
func TestQueueAgainstNaive(t *testing.T) {
	for seed := range uint64(15) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		q, l := newTestQueue(testLimits)
		naive := make(map[FlowID][]string)
		now := time.Now()
		next, pushed, out := 0, 0, 0
		for range 1000 {
			if rnd.IntN(2) == 0 {
				id := testFlow(rnd.IntN(5), Class(rnd.IntN(2)))
				n, size := 1+rnd.IntN(20), SendOverhead+20+rnd.IntN(3000)
				rest := q.push(id, testFrames(int(id.Peer[0]), next, n, size), now)
				for i := range n - CountFrames(rest) {
					naive[id] = append(naive[id], fmt.Sprintf("%d/%d", id.Peer[0], next+i))
					pushed++
				}
				next += n
				continue
			}
			s, ok := q.next(1000+rnd.IntN(20000), now)
			if ok != (pushed > out) {
				t.Fatalf("seed %d: next = %v with %d queued", seed, ok, pushed-out)
			}
			for f := s.frames; len(f) > 0; f = f[FrameSize(f):] {
				id := FlowID{Peer: testFlow(int(f[HeaderSize]), 0).Peer, Class: s.class}
				name, _, _ := bytes.Cut(f[SendOverhead:], []byte("."))
				if len(naive[id]) == 0 || naive[id][0] != string(name) {
					t.Fatalf("seed %d: got %s, want the first of %v", seed, name, naive[id])
				}
				naive[id] = naive[id][1:]
				out++
			}
			if ok {
				q.release(s)
			}
		}
		q.discard(dropGone)
		if l.drops[dropGone] != pushed-out || q.budget.used.Load() != 0 {
			t.Fatalf("seed %d: %d discarded, want %d; %d bytes left", seed, l.drops[dropGone], pushed-out,
				q.budget.used.Load())
		}
	}
}

// A block is not freed while a span of it is being written, although the rest of it has expired.
func TestQueueKeepsBlockBeingWritten(t *testing.T) {
	q, l := newTestQueue(testLimits)
	now := time.Now()
	q.push(testFlow(1, ClassData), testFrames(1, 0, 10, 1000), now)
	s, ok := q.next(3000, now)
	if !ok || s.last || len(s.frames) != 3000 {
		t.Fatalf("got %d bytes, last = %v", len(s.frames), s.last)
	}
	late := now.Add(time.Hour)
	q.push(testFlow(1, ClassData), testFrames(1, 10, 400, 1000), late)
	if l.drops[dropQueueHead] != 0 || !bytes.HasPrefix(s.frames[SendOverhead:], []byte("1/0.")) {
		t.Error("block dropped while it was being written")
	}
	q.release(s)
	drainQueue(q, late)
	if l.drops[dropQueueHead] != 7 {
		t.Errorf("%d expired, want 7", l.drops[dropQueueHead])
	}
}

func BenchmarkQueue(b *testing.B) {
	q, _ := newTestQueue(testLimits)
	frames := testFrames(1, 0, 11, 1457)
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		for i := range 4 {
			q.push(testFlow(i, ClassData), frames, now)
		}
		for {
			s, ok := q.next(quantum, now)
			if !ok {
				break
			}
			q.release(s)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/44, "ns/packet")
}
