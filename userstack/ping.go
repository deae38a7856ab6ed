package userstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// pingPayload is the payload of ping(8) by default, in bytes.
const pingPayload = 56

// Ping sends one ICMP echo request to dst and returns the round-trip time. It waits until the
// context ends.
func (s *Stack) Ping(ctx context.Context, dst netip.Addr) (time.Duration, error) {
	rtt, err := s.ping(ctx, dst.Unmap().WithZone(""))
	if err != nil && s.closed.Load() {
		err = net.ErrClosed // Close may have ended the attempt with another error
	}
	return rtt, opError(opPing, "ip", nil, &net.IPAddr{IP: dst.AsSlice()}, err)
}

func (s *Stack) ping(ctx context.Context, dst netip.Addr) (time.Duration, error) {
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	proto := icmp.ProtocolNumber4
	if dst.Is6() {
		proto = icmp.ProtocolNumber6
	}
	wq := new(waiter.Queue)
	ep, terr := s.gv.NewEndpoint(proto, protocolOf(dst), wq)
	if terr != nil {
		return 0, errorOf(terr)
	}
	var sock socket
	sock.attach(s, ep, wq)
	defer ep.Close()
	defer sock.release()
	if terr := ep.Connect(fullAddress(netip.AddrPortFrom(dst, 0))); terr != nil {
		return 0, errorOf(terr)
	}
	request := echoRequest(dst, uint16(s.pings.Add(1)))
	start := time.Now()
	if _, terr := ep.Write(bytes.NewReader(request), tcpip.WriteOptions{}); terr != nil {
		return 0, errorOf(terr)
	}
	for {
		var reply bytes.Buffer
		_, terr := ep.Read(&reply, tcpip.ReadOptions{})
		switch {
		case terr == nil && answersEcho(reply.Bytes(), request):
			return time.Since(start), nil
		case terr == nil:
			continue
		case !wouldBlock(terr):
			return 0, errorOf(terr)
		}
		select {
		case <-sock.readablec:
		case <-ctx.Done():
			return 0, dialError(ctx.Err())
		case <-s.dev.closec:
			return 0, syscall.ECONNABORTED
		}
	}
}

// echoRequest builds an ICMP echo request. gVisor sets the identifier and the checksum.
func echoRequest(dst netip.Addr, seq uint16) []byte {
	b := make([]byte, header.ICMPv4MinimumSize+pingPayload)
	b[0] = byte(header.ICMPv4Echo)
	if dst.Is6() {
		b[0] = byte(header.ICMPv6EchoRequest)
	}
	binary.BigEndian.PutUint16(b[6:], seq)
	return b
}

// answersEcho reports whether reply has the sequence number of request.
func answersEcho(reply, request []byte) bool {
	return len(reply) >= len(request) && bytes.Equal(reply[6:8], request[6:8])
}
