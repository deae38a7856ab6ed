package userstack

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

func udpPacket(n int) *stack.PacketBuffer {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: 20, Payload: buffer.MakeWithData(make([]byte, n))})
	pkt.NetworkHeader().Push(header.IPv4MinimumSize)[0] = 0x45
	pkt.TransportProtocolNumber = header.UDPProtocolNumber
	return pkt
}

func buffers(n int) ([][]byte, []int) {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, 2000)
	}
	return bufs, make([]int, n)
}

// Whoever queues a packet tells, and what is waiting already is told at once.
func TestNotify(t *testing.T) {
	d := newDevice(DefaultMTU, 0)
	defer d.Close()
	pkt := udpPacket(10)
	defer pkt.DecRef()
	d.enqueue(pkt)
	told := 0
	d.Notify(func() { told++ })
	if told != 1 {
		t.Errorf("told %d times of what was there, want once", told)
	}
	d.enqueue(pkt)
	if told != 2 || d.Waiting() == 0 {
		t.Errorf("told %d times, %d bytes waiting; want twice, and some", told, d.Waiting())
	}
	bufs, sizes := buffers(batchSize)
	if n := d.Read(bufs, sizes, 16); n != 2 || sizes[0] != 30 || d.Waiting() != 0 {
		t.Errorf("%d packets of %d bytes and %d bytes left, want 2 of 30 and none", n, sizes[0], d.Waiting())
	}
	if n := d.Read(bufs, sizes, 16); n != 0 {
		t.Errorf("%d packets from an empty queue", n)
	}
}

// A full queue stops UDP and TCP, drops the rest, and lets go when the device is closed.
func TestFullQueue(t *testing.T) {
	d := newDevice(DefaultMTU, 0)
	pkt := udpPacket(1000)
	defer pkt.DecRef()
	for d.queued < maxQueued {
		if err := d.enqueue(pkt); err != nil {
			t.Fatal(err)
		}
	}
	icmp := udpPacket(10)
	defer icmp.DecRef()
	icmp.TransportProtocolNumber = header.ICMPv4ProtocolNumber
	if err := d.enqueue(icmp); err == nil || d.drops.Load() != 1 {
		t.Errorf("ICMP on a full queue: %v, %d drops, want an error and 1", err, d.drops.Load())
	}

	var wg sync.WaitGroup
	results := make(chan tcpip.Error, 2)
	for range 2 {
		wg.Go(func() {
			err := d.enqueue(pkt)
			results <- err
		})
	}
	select {
	case err := <-results:
		t.Fatalf("UDP on a full queue did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	bufs, sizes := buffers(1)
	if n := d.Read(bufs, sizes, 0); n != 1 {
		t.Fatalf("%d packets, want 1", n)
	}
	if err := <-results; err != nil {
		t.Errorf("after room was made: %v", err)
	}
	d.Close()
	if err := <-results; err == nil {
		t.Error("a writer got through after Close")
	}
	wg.Wait()
	if n := d.Read(bufs, sizes, 0); n != 0 {
		t.Errorf("%d packets after Close", n)
	}
}

func TestConfig(t *testing.T) {
	for _, mtu := range []int{-1, 575, 65501} {
		if s, err := New(Config{MTU: mtu}); err == nil {
			s.Close()
			t.Errorf("MTU %d was accepted", mtu)
		}
	}
	s := newStack(t, Config{}, netip.MustParseAddr("100.64.0.1"))
	if mtu := s.Device().MTU(); mtu != DefaultMTU {
		t.Errorf("MTU %d, want %d", mtu, DefaultMTU)
	}
}

func TestPacketQueue(t *testing.T) {
	var q packetQueue
	var want []*stack.PacketBuffer
	for i := range 1000 {
		for range i % 7 {
			pkt := &stack.PacketBuffer{}
			q.push(pkt)
			want = append(want, pkt)
		}
		for range i % 5 {
			got := q.pop()
			if len(want) == 0 {
				if got != nil {
					t.Fatal("an empty queue gave a packet")
				}
				continue
			}
			if got != want[0] {
				t.Fatal("packets change their order")
			}
			want = want[1:]
		}
	}
}
