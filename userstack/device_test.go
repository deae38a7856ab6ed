package userstack

import (
	"errors"
	"net/netip"
	"os"
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

// No more than maxInFlight packets are given out before some are reported as sent.
func TestCredit(t *testing.T) {
	d := newDevice(DefaultMTU, 0)
	defer d.Close()
	for range 2 * maxInFlight {
		pkt := udpPacket(10)
		d.enqueue(pkt)
		pkt.DecRef()
	}
	bufs, sizes := buffers(2 * batchSize)
	total := 0
	for total < maxInFlight {
		n, err := d.Read(bufs, sizes, 16)
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if total != maxInFlight {
		t.Fatalf("%d packets given out, want %d", total, maxInFlight)
	}
	d.sent(1)
	if n, err := d.Read(bufs, sizes, 16); n != 1 || err != nil {
		t.Fatalf("after one was sent, Read gave %d, %v", n, err)
	}
	// Nothing more is reported: after stallTime the count starts anew.
	start := time.Now()
	n, err := d.Read(bufs, sizes, 16)
	if err != nil || n == 0 || time.Since(start) < stallTime {
		t.Errorf("Read gave %d, %v after %v, want some after %v", n, err, time.Since(start), stallTime)
	}
	d.sent(maxInFlight * 3) // late reports
	if got := d.inFlight.Load(); got != 0 {
		t.Errorf("%d in flight after late reports, want 0", got)
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
	if _, err := d.Read(bufs, sizes, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-results; err != nil {
		t.Errorf("after room was made: %v", err)
	}
	d.Close()
	if err := <-results; err == nil {
		t.Error("a writer got through after Close")
	}
	wg.Wait()
	if _, err := d.Read(bufs, sizes, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close: %v, want os.ErrClosed", err)
	}
	if _, ok := <-d.Events(); ok {
		t.Error("an event after Close")
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
	if mtu, err := s.Device().MTU(); mtu != DefaultMTU || err != nil {
		t.Errorf("MTU %d, %v, want %d", mtu, err, DefaultMTU)
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
