package derp

import (
	"bytes"
	"testing"

	"ginnel/key"
	"ginnel/relay/internal/relaytest"
)

// FuzzFrames checks that what a parser accepts is what the encoder makes.
func FuzzFrames(f *testing.F) {
	vectors := relaytest.LoadVectors(f)
	for _, list := range [][]relaytest.Vector{vectors.Vectors, vectors.Malformed} {
		for _, v := range list {
			f.Add(v.Bytes(f))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		typ, n, ok := ParseHeader(b)
		if !ok || uint64(len(b)) < HeaderSize+uint64(n) {
			return
		}
		frame := b[:HeaderSize+int(n)]
		p := frame[HeaderSize:]
		var again []byte
		var known int // bytes of the payload that mean something
		switch typ {
		case FrameServerKey:
			if k, err := ParseServerKey(p); err == nil {
				again, known = AppendServerKey(nil, k), 40
			}
		case FramePeerGone:
			if k, reason, ok := ParsePeerGone(p); ok && len(p) > key.Size {
				again, known = AppendPeerGone(nil, k, reason), 33
			}
		case FramePeerPresent:
			if present, ok := ParsePeerPresent(p); ok && len(p) >= peerPresentSize && !present.Addr.Addr().Is4() &&
				present.Addr.IsValid() {
				again, known = AppendPeerPresent(nil, present), peerPresentSize
			}
		case FramePing:
			if d, ok := ParsePing(p); ok {
				again, known = AppendPing(nil, d), PingSize
			}
		case FramePong:
			if d, ok := ParsePing(p); ok {
				again, known = AppendPong(nil, d), PingSize
			}
		case FrameRestarting:
			if r, ok := ParseRestarting(p); ok {
				again, known = AppendRestarting(nil, r), 8
			}
		}
		if again != nil && !bytes.Equal(again[HeaderSize:], p[:known]) {
			t.Errorf("%x encodes to %x", frame, again)
		}
	})
}

// FuzzLoginJSON checks that any JSON in a box is safe to open, and that accepted JSON survives a
// round trip.
func FuzzLoginJSON(f *testing.F) {
	for _, v := range relaytest.LoadVectors(f).Vectors {
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
		if _, _, info, err := OpenClientInfo(server, shared.Seal(public[:], plain)); err == nil {
			frame := AppendClientInfo(nil, public, shared, info)
			if _, _, again, err := OpenClientInfo(server, frame[HeaderSize:]); err != nil || again != info {
				t.Errorf("%s: %+v became %+v, %v", plain, info, again, err)
			}
		}
		if info, err := OpenServerInfo(shared, shared.Seal(nil, plain)); err == nil {
			frame := AppendServerInfo(nil, shared, info)
			if again, err := OpenServerInfo(shared, frame[HeaderSize:]); err != nil || again != info {
				t.Errorf("%s: %+v became %+v, %v", plain, info, again, err)
			}
		}
	})
}
