package server

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/pion/stun/v3"

	"ginnel/key"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/relaytest"
)

// FuzzSTUN compares the requests that are answered with a literal reading of section 7.5.
func FuzzSTUN(f *testing.F) {
	for _, v := range relaytest.LoadVectors(f).STUN {
		f.Add(v.Bytes(f))
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
		if err := stun.Decode(answer, &m); err != nil || len(answer) != 32 ||
			!bytes.Equal(m.TransactionID[:], b[8:20]) {
			t.Errorf("%x is answered with %x (%v)", b, answer, err)
		}
	})
}

// naiveSTUNAccept is section 7.5, literally.
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

// FuzzServerInput gives any bytes to the server's reader. All it forwards must be whole frames, and
// how the bytes are split into reads must not matter.
func FuzzServerInput(f *testing.F) {
	vectors := relaytest.LoadVectors(f)
	for _, v := range append(vectors.Vectors, vectors.Malformed...) {
		f.Add(v.Bytes(f), true)
		f.Add(bytes.Repeat(v.Bytes(f), 3), false)
	}
	s := newTestServer(f, Config{})
	client, peer := vectors.Public(f, "client"), vectors.Public(f, "peer")
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

// serverInput lets client send what r yields. It returns the frames that peer gets.
func serverInput(t *testing.T, s *Server, client, peer key.NodePublic, tr trust, r io.Reader) (got [][]byte) {
	from, to := bareConn(s, client), bareConn(s, peer)
	from.trust = tr
	from.in.Open(r)
	from.read()
	from.unregister()
	near, far := relaytest.Pipe(8<<20, netip.AddrPort{}, netip.AddrPort{})
	to.conn = derp.NewFrameConn(near, near, time.Second)
	to.out.Attach(to.conn)
	to.out.WaitIdle(t.Context())
	to.unregister()
	to.conn.Fail(net.ErrClosed)
	frames, err := io.ReadAll(far)
	if err != nil {
		t.Fatal(err)
	}
	for len(frames) > 0 {
		frame := frames[:derp.FrameSize(frames)]
		typ, _, _ := derp.ParseHeader(frame)
		if typ != derp.FramePeerGone && (typ != derp.FrameRecvPacket || len(frame) < derp.SendOverhead) {
			t.Errorf("forwarded %x", frame)
		}
		got = append(got, frame)
		frames = frames[len(frame):]
	}
	return got
}

// bareConn returns a registered connection of s without a network: frames for it stay in its queue.
func bareConn(s *Server, k key.NodePublic) *serverConn {
	near, far := relaytest.Pipe(1<<20, netip.AddrPort{}, netip.AddrPort{})
	far.Close()
	c := &serverConn{s: s, key: k, serial: s.serial.Add(1), flags: derp.PresentRegular,
		conn: derp.NewFrameConn(near, near, time.Second)}
	c.out = derp.NewOutbox(&s.wg, &serverLimits, s.memory.all, s.metrics)
	s.registry.add(c)
	return c
}

// The server turns a SendPacket into the RecvPacket of the vectors.
func TestSendBecomesRecv(t *testing.T) {
	f := relaytest.LoadVectors(t)
	for send, recv := range map[string]string{"send_packet": "recv_packet", "send_packet_empty": "recv_packet_empty"} {
		c := &serverConn{key: f.Public(t, "client")}
		var r run
		c.addSend(&r, f.Find(t, send))
		if want := f.Find(t, recv); !bytes.Equal(r.frames, want) {
			t.Errorf("%s:\ngot  %x\nwant %x", send, r.frames, want)
		}
	}
}

// A configuration does not reveal its mesh key when it is printed.
func TestConfigTellsNoMeshKey(t *testing.T) {
	cfg := Config{MeshKey: testMeshKey}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if text := fmt.Sprintf(verb, cfg); strings.Contains(text, fmt.Sprintf("%x", testMeshKey[:4])) ||
			strings.Contains(text, fmt.Sprint(testMeshKey[0], testMeshKey[1])) {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}
