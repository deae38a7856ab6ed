package server

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/pion/stun/v3"
	"github.com/prometheus/client_golang/prometheus"
)

// This file has the STUN service, by which nodes learn their public address (7.5).

const (
	stunHeaderSize      = 20
	stunFingerprintSize = 8 // attribute header and CRC
	stunSoftware        = "tailnode"
	maxSTUNRequest      = 1500
	stunPause           = 10 * time.Millisecond
)

// udpConn has the methods of a UDP socket that return addresses without allocating.
type udpConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
}

// ServeSTUN answers Binding requests on conn, a UDP socket, until Close, and then returns
// net.ErrClosed. It answers only requests as DERP clients send them. An answer is at most a few
// bytes longer than its request, and no state is kept.
func (s *Server) ServeSTUN(conn net.PacketConn) error {
	udp, ok := conn.(udpConn)
	if !ok {
		return errors.New("relay: STUN needs a UDP socket")
	}
	if !s.beginServing(conn) {
		conn.Close()
		return net.ErrClosed
	}
	defer s.endServing(conn)
	defer conn.Close()

	var r stunResponder
	success, notSTUN, readError, writeError := s.stunCounter("success"), s.stunCounter("not_stun"),
		s.stunCounter("read_error"), s.stunCounter("write_error")
	buf := make([]byte, maxSTUNRequest)
	for {
		n, from, err := udp.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return net.ErrClosed
		}
		if err != nil {
			readError.Inc()
			if !s.sleep(stunPause) {
				return net.ErrClosed
			}
			continue
		}
		answer, ok := r.answer(buf[:n], from)
		if !ok {
			notSTUN.Inc()
			continue
		}
		if _, err := udp.WriteToUDPAddrPort(answer, from); err != nil {
			writeError.Inc()
			continue
		}
		success.Inc()
	}
}

func (s *Server) stunCounter(disposition string) prometheus.Counter {
	return s.metrics.stun.WithLabelValues(disposition)
}

// stunResponder makes answers. It reuses its messages.
type stunResponder struct{ request, response stun.Message }

// answer returns the answer to a request, valid until the next call. It returns false if the
// request is not to be answered.
func (r *stunResponder) answer(b []byte, from netip.AddrPort) ([]byte, bool) {
	if !r.accept(b) {
		return nil, false
	}
	r.response.Reset()
	r.response.Type = stun.BindingSuccess
	r.response.TransactionID = r.request.TransactionID
	r.response.WriteHeader()
	ip := from.Addr().Unmap()
	mapped := stun.XORMappedAddress{IP: ip.AsSlice(), Port: int(from.Port())}
	if err := mapped.AddTo(&r.response); err != nil {
		return nil, false
	}
	return r.response.Raw, true
}

// accept makes the checks of section 7.5, all of which are required.
func (r *stunResponder) accept(b []byte) bool {
	if len(b) < stunHeaderSize+stunFingerprintSize || !stun.IsMessage(b) || b[0]&0xc0 != 0 {
		return false
	}
	if binary.BigEndian.Uint16(b) != stun.BindingRequest.Value() {
		return false
	}
	// The attributes must fill the datagram, even if the header gives another length.
	r.request.Raw = append(r.request.Raw[:0], b...)
	binary.BigEndian.PutUint16(r.request.Raw[2:], uint16(len(b)-stunHeaderSize))
	if r.request.Decode() != nil {
		return false
	}
	attrs := r.request.Attributes
	if len(attrs) == 0 {
		return false
	}
	known := false
	for _, a := range attrs {
		known = known || a.Type == stun.AttrSoftware && string(a.Value) == stunSoftware
	}
	last := attrs[len(attrs)-1]
	return known && last.Type == stun.AttrFingerprint && len(last.Value) == 4 &&
		binary.BigEndian.Uint32(last.Value) == stun.FingerprintValue(b[:len(b)-stunFingerprintSize])
}
