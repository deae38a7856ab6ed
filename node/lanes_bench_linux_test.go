//go:build linux && !ginnel_stdnet

package node

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"ginnel/transport"
	"ginnel/wireguard"
)

const (
	benchPeers = 8
	benchRow   = 45 // packets that leave in one message of UDP_SEGMENT
	maxRows    = 8
	patience   = 10 * time.Second // for what happens within milliseconds
)

// BenchmarkReceiveLanes receives from eight peers: system calls, decryption, and writing to a Tun
// that drops the packets. In each round the peers fill the receiver's sockets before the clock
// runs, so that sending is not measured. One lane is the default with up to three processors.
//
//	go test -run '^$' -bench ReceiveLanes -cpu 1,2 ./node
func BenchmarkReceiveLanes(b *testing.B) {
	for _, lanes := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprintf("lanes=%d", lanes), func(b *testing.B) { benchReceiveLanes(b, lanes) })
	}
}

func benchReceiveLanes(b *testing.B, lanes int) {
	received, sent, g := newTally(), newTally(), new(gate)
	s := hub{
		lanes: lanes, queues: 1, others: benchPeers, size: laneMTU,
		take:       func(packets [][]byte, _ int) { received.add(len(packets)) },
		wrap:       func(c *transport.Conn) wireguard.Bind { return &gatedBind{c, g, newTally()} },
		wrapOthers: func(c *transport.Conn) wireguard.Bind { return &gatedBind{c, new(gate), sent} },
	}.build(b)
	received.expect(benchPeers)
	for _, q := range s.in { // makes sessions, in lanes by turns
		q.allow(1)
	}
	if !received.await(patience) {
		b.Fatal("a session is missing")
	}
	fill := func(rows int) {
		g.close()
		received.expect(benchPeers * rows * benchRow)
		sent.expect(benchPeers * rows * benchRow)
		for _, q := range s.in {
			q.allow(rows * benchRow)
		}
		if !sent.await(patience) {
			b.Fatal("peers do not send")
		}
	}
	rows := maxRows
	for ; ; rows /= 2 { // what a socket has room for; without a right to more that is less
		fill(rows)
		g.open()
		if received.await(time.Second) {
			break
		}
		if rows == 1 {
			b.Fatal("a socket has no room for a row of each peer")
		}
	}
	b.SetBytes(int64(benchPeers * rows * benchRow * laneMTU))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		fill(rows)
		b.StartTimer()
		g.open()
		if !received.await(patience) {
			b.Fatal("packets were lost: others use the memory of sockets")
		}
	}
}

// BenchmarkSendQueues sends to peers that do not read, from one queue for each: reading from the
// Tun, encryption, and system calls.
//
//	go test -run '^$' -bench SendQueues -cpu 1,2 ./node
func BenchmarkSendQueues(b *testing.B) {
	for _, queues := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprintf("queues=%d", queues), func(b *testing.B) { benchSendQueues(b, queues) })
	}
}

func benchSendQueues(b *testing.B, queues int) {
	sent, closed, welcome := newTally(), new(gate), newTally()
	s := hub{
		lanes: queues, queues: queues, others: queues, size: laneMTU,
		take:       func(packets [][]byte, _ int) { welcome.add(len(packets)) },
		wrap:       func(c *transport.Conn) wireguard.Bind { return &gatedBind{c, new(gate), sent} },
		wrapOthers: func(c *transport.Conn) wireguard.Bind { return &gatedBind{c, closed, newTally()} },
	}.build(b)
	welcome.expect(queues)
	for _, q := range s.in {
		q.allow(1)
	}
	if !welcome.await(patience) {
		b.Fatal("a session is missing")
	}
	closed.close()
	defer closed.open()
	const rows = 64 // in all
	b.SetBytes(rows * benchRow * laneMTU)
	b.ReportAllocs()
	for b.Loop() {
		sent.expect(rows * benchRow)
		for _, q := range s.out {
			q.allow(rows / queues * benchRow)
		}
		if !sent.await(patience) {
			b.Fatal("packets are not sent")
		}
	}
}

// BenchmarkNodeLanes has eight nodes send to a ninth over TCP, all in this process. With one
// processor to plan for, each has one lane.
//
//	go test -run '^$' -bench NodeLanes -cpu 16 ./node
func BenchmarkNodeLanes(b *testing.B) {
	for _, processors := range []int{1, 4, 16} {
		b.Run(fmt.Sprintf("lanes=%d", (&Config{Processors: processors}).lanes()), func(b *testing.B) {
			out, in := directTo(b, benchPeers, processors)
			var wg sync.WaitGroup
			for _, c := range in {
				wg.Go(func() { io.Copy(io.Discard, c) })
			}
			buf := make([]byte, piece)
			b.SetBytes(benchPeers * piece)
			b.ResetTimer()
			for _, c := range out {
				wg.Go(func() {
					for range b.N {
						if _, err := c.Write(buf); err != nil {
							b.Error(err)
							break
						}
					}
					c.(interface{ CloseWrite() error }).CloseWrite()
				})
			}
			wg.Wait()
		})
	}
}
