package interop

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"tailscale.com/derp"
	tskey "tailscale.com/types/key"

	"ginnel/key"
)

// frame is a DERP frame that a script sends.
type frame struct {
	typ     derp.FrameType
	payload []byte
}

// sealedInfo is the type of a ServerInfo whose payload is sealed for the client before it is sent.
const sealedInfo = derp.FrameType(0xff)

// info is the ServerInfo that servers send after the login.
var info = frame{sealedInfo, []byte(`{"version":2}`)}

// script is a DERP server that logs clients in and then sends a list of frames.
type script struct {
	key    tskey.NodePrivate
	frames []frame
}

// ServeHTTP upgrades the connection without a fast start, sends all frames and closes its side.
func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	public := s.key.Public()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n")
	conn.Write(frameOf(derp.FrameServerKey, public.AppendTo([]byte(derp.Magic))))
	typ, n, err := derp.ReadFrameHeader(brw.Reader)
	if err != nil || typ != derp.FrameClientInfo {
		return
	}
	login := make([]byte, n)
	if _, err := io.ReadFull(brw, login); err != nil {
		return
	}
	client := theirPublic(key.NodePublic(login[:key.Size]))
	for _, f := range s.frames {
		if f.typ == sealedInfo {
			f = frame{derp.FrameServerInfo, s.key.SealTo(client, f.payload)}
		}
		conn.Write(frameOf(f.typ, f.payload))
	}
	conn.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, brw) // until the client closes: data sent to a closed socket would cause a reset
}

// TestClientFrames proves that our client handles each frame as theirs does: it skips short and
// unknown frames, reads the known part of longer ones, and closes the connection for the same ones.
// The one difference, a packet over 64 KiB, is not tested, because no server sends it.
func TestClientFrames(t *testing.T) {
	t.Parallel()
	peer := key.NewNodePrivate().Public()
	with := func(n int) []byte { return append(peer[:], make([]byte, n)...) }
	zeros := func(n int) []byte { return make([]byte, n) }
	for name, frames := range map[string][]frame{
		"nothing":              {info},
		"packet":               {info, {derp.FrameRecvPacket, with(10)}},
		"empty packet":         {info, {derp.FrameRecvPacket, with(0)}},
		"short packet":         {info, {derp.FrameRecvPacket, with(0)[:31]}},
		"largest packet":       {info, {derp.FrameRecvPacket, with(64 << 10)}},
		"gone":                 {info, {derp.FramePeerGone, with(1)}},
		"gone, old":            {info, {derp.FramePeerGone, with(0)}},
		"gone, grown":          {info, {derp.FramePeerGone, with(9)}},
		"gone, short":          {info, {derp.FramePeerGone, with(0)[:31]}},
		"ping":                 {info, {derp.FramePing, zeros(8)}},
		"short ping":           {info, {derp.FramePing, zeros(7)}},
		"long ping":            {info, {derp.FramePing, zeros(70_000)}},
		"short pong":           {info, {derp.FramePong, zeros(7)}},
		"keepalive":            {info, {derp.FrameKeepAlive, nil}},
		"keepalive, grown":     {info, {derp.FrameKeepAlive, zeros(9)}},
		"health":               {info, {derp.FrameHealth, []byte("ill")}, {derp.FrameHealth, nil}},
		"restarting, short":    {info, {derp.FrameRestarting, zeros(7)}},
		"restarting, grown":    {info, {derp.FrameRestarting, zeros(9)}},
		"server key again":     {info, {derp.FrameServerKey, zeros(40)}},
		"unknown":              {info, {0x7f, zeros(70_000)}},
		"a client's frame":     {info, {derp.FrameSendPacket, with(3)}},
		"1 MiB":                {info, {0x7f, zeros(1 << 20)}},
		"over 1 MiB":           {info, {0x7f, zeros(1<<20 + 1)}},
		"present":              {info, {derp.FramePeerPresent, with(19)}},
		"present, short":       {info, {derp.FramePeerPresent, with(0)[:31]}},
		"info twice":           {info, info},
		"info late":            {{derp.FrameRecvPacket, with(10)}, info},
		"info missing":         {},
		"info short":           {{derp.FrameServerInfo, zeros(23)}},
		"info broken":          {{derp.FrameServerInfo, zeros(60)}},
		"info no JSON":         {{sealedInfo, []byte("x")}},
		"info of a wrong type": {{sealedInfo, []byte(`{"version":"2"}`)}},
		"info in other case":   {{sealedInfo, []byte(`{"VERSION":2,"tokenBucketBytesPerSecond":1000000,"x":[]}`)}},
		"info null":            {{sealedInfo, []byte(`null`)}},
	} {
		s := &script{key: tskey.NewNode(), frames: append(frames, frame{derp.FrameRecvPacket, append(peer[:], "last"...)})}
		our, their := s.play(t, ours), s.play(t, theirs)
		if our != their {
			t.Errorf("%s: our client sees %s, theirs %s", name, our, their)
		}
	}
}

// play connects a client and returns a text of all events that it sees.
func (s *script) play(t *testing.T, m clientKind) string {
	t.Helper()
	srv := httptest.NewServer(s)
	defer srv.Close()
	var public key.NodePublic
	convert(s.key.Public(), &public)
	f := &front{mode: plainHTTP, addr: srv.Listener.Addr().(*net.TCPAddr).AddrPort()}
	h := &relayHost{name: "script", public: public, fronts: map[upgradeMode]*front{plainHTTP: f}}
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	d, err := m.connect(ctx, t, h, plainHTTP, key.NewNodePrivate())
	if err != nil {
		return "no connection"
	}
	defer d.close()
	var seen []string
	for {
		events, err := d.receive()
		for _, e := range events {
			switch e.kind {
			case packetEvent:
				seen = append(seen, fmt.Sprintf("packet of %d from %s", len(e.data), e.peer))
			case goneEvent:
				seen = append(seen, fmt.Sprintf("%s is gone", e.peer))
			}
		}
		if err != nil {
			return strings.Join(append(seen, "end"), ", ")
		}
	}
}
