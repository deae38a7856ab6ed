package relay

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"reflect"
	"testing"
	"testing/iotest"
	"time"

	"github.com/pion/stun/v3"

	"ginnel/internal/key"
)

// FuzzFrames checks that what a parser takes is what its encoder makes.
func FuzzFrames(f *testing.F) {
	vectors := loadVectors(f)
	for _, list := range [][]vector{vectors.Vectors, vectors.Malformed} {
		for _, v := range list {
			f.Add(v.bytes(f))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		typ, n, ok := parseHeader(b)
		if !ok || uint64(len(b)) < headerSize+uint64(n) {
			return
		}
		frame := b[:headerSize+int(n)]
		p := frame[headerSize:]
		var again []byte
		var known int // bytes of the payload that mean something
		switch typ {
		case frameServerKey:
			if k, err := parseServerKey(p); err == nil {
				again, known = appendServerKey(nil, k), 40
			}
		case framePeerGone:
			if k, reason, ok := parsePeerGone(p); ok && len(p) > key.Size {
				again, known = appendPeerGone(nil, k, reason), 33
			}
		case framePeerPresent:
			if present, ok := parsePeerPresent(p); ok && len(p) >= peerPresentSize && !present.addr.Addr().Is4() && present.addr.IsValid() {
				again, known = appendPeerPresent(nil, present), peerPresentSize
			}
		case framePing:
			if d, ok := parsePing(p); ok {
				again, known = appendPing(nil, d), pingSize
			}
		case framePong:
			if d, ok := parsePing(p); ok {
				again, known = appendPong(nil, d), pingSize
			}
		case frameRestarting:
			if r, ok := parseRestarting(p); ok {
				again, known = appendRestarting(nil, r), 8
			}
		}
		if again != nil && !bytes.Equal(again[headerSize:], p[:known]) {
			t.Errorf("%x encodes to %x", frame, again)
		}
	})
}

// FuzzLoginJSON checks that no JSON in a box breaks anything, and that what is understood survives
// a round trip.
func FuzzLoginJSON(f *testing.F) {
	for _, v := range loadVectors(f).Vectors {
		if s, ok := v.Inputs["json"].(string); ok {
			f.Add([]byte(s))
		}
	}
	f.Add([]byte(`{"meshKey":null}`))
	server, client := key.NewNodePrivate(), key.NewNodePrivate()
	shared, err := client.Shared(server.Public())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, plain []byte) {
		public := client.Public()
		if _, _, info, err := openClientInfo(server, shared.Seal(public[:], plain)); err == nil {
			frame := appendClientInfo(nil, public, shared, info)
			if _, _, again, err := openClientInfo(server, frame[headerSize:]); err != nil || again != info {
				t.Errorf("%s: %+v became %+v, %v", plain, info, again, err)
			}
		}
		if info, err := openServerInfo(shared, shared.Seal(nil, plain)); err == nil {
			frame := appendServerInfo(nil, shared, info)
			if again, err := openServerInfo(shared, frame[headerSize:]); err != nil || again != info {
				t.Errorf("%s: %+v became %+v, %v", plain, info, again, err)
			}
		}
	})
}

// FuzzMap checks that a map that parses is valid, and survives a round trip.
func FuzzMap(f *testing.F) {
	f.Add([]byte(mapJSON))
	f.Add([]byte(`{"Regions":{"1":null,"2":{"RegionID":2}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMap(b)
		if err != nil {
			return
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatalf("%s parses but does not encode: %v", b, err)
		}
		again, err := parseMap(text)
		if err != nil {
			t.Fatalf("%s parses, but not again as %s: %v", b, text, err)
		}
		if text2, _ := json.Marshal(again); !bytes.Equal(text, text2) {
			t.Errorf("%s becomes %s", text, text2)
		}
		for _, r := range m.Regions {
			for _, target := range nodeTargets(r) {
				target.routes()
				target.url()
			}
		}
	})
}

// FuzzSTUN checks that only what the reference accepts gets an answer: a strict reading of section
// 7.5 beside ours.
func FuzzSTUN(f *testing.F) {
	for _, v := range loadVectors(f).STUN {
		f.Add(v.bytes(f))
	}
	from := netip.MustParseAddrPort("203.0.113.7:41641")
	f.Fuzz(func(t *testing.T, b []byte) {
		var r stunResponder
		answer, ok := r.answer(b, from)
		if ok != naiveSTUNAccept(b) {
			t.Errorf("%x: accepted = %v", b, ok)
		}
		if !ok {
			return
		}
		var m stun.Message
		if err := stun.Decode(answer, &m); err != nil || len(answer) != 32 || !bytes.Equal(m.TransactionID[:], b[8:20]) {
			t.Errorf("%x is answered with %x (%v)", b, answer, err)
		}
	})
}

// naiveSTUNAccept is section 7.5 word by word.
func naiveSTUNAccept(b []byte) bool {
	if len(b) < 20 || b[0]>>6 != 0 || string(b[4:8]) != "\x21\x12\xa4\x42" || b[0] != 0 || b[1] != 1 {
		return false
	}
	software, last, lastAt := false, 0, 0
	for at := 20; at < len(b); {
		if at+4 > len(b) {
			return false
		}
		typ, size := int(b[at])<<8|int(b[at+1]), int(b[at+2])<<8|int(b[at+3])
		padded := (size + 3) / 4 * 4
		if at+4+padded > len(b) {
			return false
		}
		if typ == 0x8022 && string(b[at+4:at+4+size]) == "tailnode" {
			software = true
		}
		last, lastAt = typ, at
		at += 4 + padded
	}
	if !software || last != 0x8028 || lastAt != len(b)-8 || b[lastAt+2] != 0 || b[lastAt+3] != 4 {
		return false
	}
	crc := stun.FingerprintValue(b[:len(b)-8])
	return bytes.Equal(b[len(b)-4:], []byte{byte(crc >> 24), byte(crc >> 16), byte(crc >> 8), byte(crc)})
}

// FuzzServerInput lets the server's reader loose on any bytes: nothing may break, whatever it
// forwards must be whole RecvPacket frames, and how the bytes are cut into reads must not matter.
func FuzzServerInput(f *testing.F) {
	vectors := loadVectors(f)
	for _, v := range append(vectors.Vectors, vectors.Malformed...) {
		f.Add(v.bytes(f), true)
		f.Add(bytes.Repeat(v.bytes(f), 3), false)
	}
	s := newTestServer(f, ServerConfig{})
	client, peer := vectors.public(f, "client"), vectors.public(f, "peer")
	f.Fuzz(func(t *testing.T, b []byte, mesh bool) {
		trust := ordinary
		if mesh {
			trust = meshPeer
		}
		whole := serverInput(t, s, client, peer, trust, bytes.NewReader(b))
		cut := serverInput(t, s, client, peer, trust, iotest.OneByteReader(bytes.NewReader(b)))
		if !reflect.DeepEqual(whole, cut) {
			t.Errorf("%x: forwarded\n%x read at once,\n%x read byte by byte", b, whole, cut)
		}
	})
}

// serverInput has client send what r yields, and returns the packets that peer is to get.
func serverInput(t *testing.T, s *Server, client, peer key.NodePublic, tr trust, r io.Reader) (got [][]byte) {
	from, to := bareConn(s, client), bareConn(s, peer)
	from.trust = tr
	from.in.src = r
	from.read()
	from.depart()
	for {
		span, ok := to.out.queue.next(quantum, time.Now())
		if !ok {
			break
		}
		for frames := span.frames; len(frames) > 0; frames = frames[frameSize(frames):] {
			frame := frames[:frameSize(frames)]
			if span.class <= classDisco && (frame[0] != byte(frameRecvPacket) || len(frame) < sendOverhead) {
				t.Errorf("forwarded %x", frame)
			}
			got = append(got, bytes.Clone(frame))
		}
		to.out.queue.release(span)
	}
	to.depart()
	return got
}

// bareConn returns a connection of s that is entered but connected to nothing: what it is sent
// stays in its queue.
func bareConn(s *Server, k key.NodePublic) *serverConn {
	near, far := memPipe(1<<20, netip.AddrPort{}, netip.AddrPort{})
	far.Close()
	c := &serverConn{s: s, key: k, serial: s.serial.Add(1), flags: presentRegular, wire: newWire(near, near, time.Second)}
	c.out = newOutbox(&s.wg, &serverLimits, &s.memory.all, s.metrics)
	s.registry.add(c)
	return c
}
