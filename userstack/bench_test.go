package userstack

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// BenchmarkBulk moves data from a host socket through two stacks, without encryption, to a host
// socket. Allocations are per 61,560 bytes, the payload of one segment.
func BenchmarkBulk(b *testing.B) {
	p := newUncheckedPair(b)
	a, z := p.connect(b, addrB4)
	near, nearEnd := tcpPair(b)
	far, farEnd := tcpPair(b)
	var wg sync.WaitGroup
	wg.Go(func() {
		a.(*Conn).ReadFrom(nearEnd)
		a.(*Conn).CloseWrite()
	})
	wg.Go(func() {
		z.(*Conn).WriteTo(farEnd)
		farEnd.(*net.TCPConn).CloseWrite()
	})
	received := make(chan int64, 1)
	wg.Go(func() {
		n, _ := io.Copy(io.Discard, far)
		received <- n
	})
	piece := make([]byte, 61560)
	b.SetBytes(int64(len(piece)))
	b.ReportAllocs()
	sent := int64(0)
	for b.Loop() {
		n, err := near.Write(piece)
		if err != nil {
			b.Fatal(err)
		}
		sent += int64(n)
	}
	near.(*net.TCPConn).CloseWrite()
	if n := <-received; n != sent {
		b.Errorf("%d bytes sent, %d received", sent, n)
	}
	wg.Wait()
}

// BenchmarkRoundTrip exchanges 64 bytes over two stacks.
func BenchmarkRoundTrip(b *testing.B) {
	p := newUncheckedPair(b)
	a, z := p.connect(b, addrB4)
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(z, z) })
	buf := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(a, buf); err != nil {
			b.Fatal(err)
		}
	}
	a.Close()
	wg.Wait()
}

// BenchmarkConnect opens and closes one connection over two stacks.
func BenchmarkConnect(b *testing.B) {
	p := newUncheckedPair(b)
	ln, err := p.b.Listen(netip.AddrPortFrom(addrB4, 80))
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	})
	b.ReportAllocs()
	for b.Loop() {
		c, err := p.a.DialContext(b.Context(), "tcp", "100.64.0.2:80")
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
	ln.Close()
	wg.Wait()
}

// BenchmarkDatagram exchanges 1200 bytes over UDP and two stacks.
func BenchmarkDatagram(b *testing.B) {
	p := newUncheckedPair(b)
	p.serveEcho(b, 7)
	c, err := p.a.DialContext(b.Context(), "udp", netip.AddrPortFrom(addrB4, 7).String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 1200)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
