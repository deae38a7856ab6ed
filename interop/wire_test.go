package interop

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"tailscale.com/derp"

	"ginnel/key"
	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// These tests send both servers data that no client sends. The servers must agree on what ends a
// connection.

// rawConn is a TCP connection to the plain HTTP front of a relay.
type rawConn struct {
	net.Conn
	t  *testing.T
	br *bufio.Reader
}

func dialRaw(t *testing.T, h *relayHost) *rawConn {
	t.Helper()
	c, err := net.Dial("tcp", h.fronts[plainHTTP].addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(waitLimit))
	return &rawConn{c, t, bufio.NewReader(c)}
}

// upgrade requests DERP and reads up to the ServerKey frame.
func (c *rawConn) upgrade() {
	c.t.Helper()
	io.WriteString(c,
		"GET /derp HTTP/1.1\r\nHost: relay.test\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Fast-Start: 1\r\n\r\n")
	if typ, _ := c.frame(); typ != derp.FrameServerKey {
		c.t.Fatalf("frame of type %#x, want ServerKey", typ)
	}
}

// frame reads a frame. Type 0 means the end of the connection.
func (c *rawConn) frame() (derp.FrameType, []byte) {
	c.t.Helper()
	typ, n, err := derp.ReadFrameHeader(c.br)
	if err != nil {
		c.wantEnd(err)
		return 0, nil
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.br, b); err != nil {
		c.wantEnd(err)
		return 0, nil
	}
	return typ, b
}

// wantEnd checks that err is the end of the connection, not a timeout.
func (c *rawConn) wantEnd(err error) {
	c.t.Helper()
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.t.Fatalf("neither an answer nor the end of the connection: %v", err)
	}
}

// frameOf encodes a frame.
func frameOf(typ derp.FrameType, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{byte(typ)}, uint32(len(payload))), payload...)
}

// login sends a ClientInfo with this JSON and reports whether the server accepts it.
func (c *rawConn) login(k key.NodePrivate, server key.NodePublic, json string) bool {
	c.t.Helper()
	public := k.Public()
	payload := append(public[:], theirPrivate(k).SealTo(theirPublic(server), []byte(json))...)
	c.Write(frameOf(derp.FrameClientInfo, payload))
	typ, _ := c.frame()
	return typ == derp.FrameServerInfo
}

const ordinaryInfo = `{"version":2,"CanAckPings":true}`

// alive reports whether a packet from k to itself still comes back.
func (c *rawConn) alive(k key.NodePublic) bool {
	c.t.Helper()
	c.Write(frameOf(derp.FrameSendPacket, append(k[:], "alive"...)))
	for {
		switch typ, b := c.frame(); {
		case typ == 0:
			return false
		case typ == derp.FrameRecvPacket && string(b[key.Size:]) == "alive":
			return true
		}
	}
}

// bothRelays starts a relay of each make with the same key.
func bothRelays(t *testing.T, mesh relay.MeshKey) [2]*relayHost {
	t.Helper()
	k := key.NewNodePrivate()
	cfg := relayserver.Config{Key: k, MeshKey: mesh}
	return [2]*relayHost{startOurRelay(t, cfg), startTheirRelay(t, cfg)}
}

// TestOddFrames proves that our server closes a connection for the same frames as theirs, from
// ordinary and from trusted clients: frames of a wrong length, and those that need the mesh key. A
// frame of an unknown type never closes one.
func TestOddFrames(t *testing.T) {
	t.Parallel()
	mesh := newMeshKey()
	relays := bothRelays(t, mesh)
	for _, info := range []string{ordinaryInfo, trustedInfo(mesh)} {
		for typ := range 0x18 {
			for _, size := range []int{0, 1, 2, 7, 8, 31, 32, 33, 63, 64, 1000, 1001} {
				var alive [2]bool
				for i, h := range relays {
					c := dialRaw(t, h)
					c.upgrade()
					k := key.NewNodePrivate()
					if !c.login(k, h.public, info) {
						t.Fatalf("%s does not accept the login", h.name)
					}
					c.Write(frameOf(derp.FrameType(typ), make([]byte, size)))
					alive[i] = c.alive(k.Public())
					c.Close()
				}
				if alive[0] != alive[1] {
					t.Errorf("after a frame of type %#x with %d bytes, login %s: our server keeps the connection: %v, theirs: %v",
						typ, size, info, alive[0], alive[1])
				}
			}
		}
	}
}

func trustedInfo(mesh relay.MeshKey) string {
	return fmt.Sprintf(`{"meshKey":"%s","version":2}`, meshKeyText(mesh))
}

// TestOddLogins proves that our server accepts the same logins as theirs, down to the details of
// the JSON in them.
func TestOddLogins(t *testing.T) {
	t.Parallel()
	mesh := newMeshKey()
	relays := bothRelays(t, mesh)
	for _, info := range []string{
		ordinaryInfo, trustedInfo(mesh), trustedInfo(newMeshKey()), strings.ToUpper(trustedInfo(mesh)),
		`{}`, `null`, `[]`, `"x"`, `7`, ``, ` `, `{`, `{}{}`, `{} x`, " {}\n",
		`{"version":"2"}`, `{"version":2.5}`, `{"version":-1}`, `{"version":null}`, `{"VERSION":2}`,
		`{"CanAckPings":"yes"}`, `{"CanAckPings":1}`, `{"canackpings":true}`,
		`{"IsProber":true}`, `{"IsProber":0}`, `{"AppName":"x"}`, `{"AppName":7}`, `{"AppName":null}`,
		`{"unknown":{"a":[1,2,{}]},"version":2}`,
		`{"meshKey":""}`, `{"meshKey":null}`, `{"meshKey":"xx"}`, `{"meshKey":7}`,
		`{"meshKey":" ` + meshKeyText(mesh) + `"}`, `{"meshKey":"` + meshKeyText(mesh)[1:] + `"}`,
	} {
		var took [2]bool
		for i, h := range relays {
			c := dialRaw(t, h)
			c.upgrade()
			took[i] = c.login(key.NewNodePrivate(), h.public, info)
			c.Close()
		}
		if took[0] != took[1] {
			t.Errorf("login %s: our server accepts it: %v, theirs: %v", info, took[0], took[1])
		}
	}
}

// TestFirstFrames proves that our server, like theirs, accepts only a valid ClientInfo as the first
// frame.
func TestFirstFrames(t *testing.T) {
	t.Parallel()
	relays := bothRelays(t, relay.MeshKey{})
	k := key.NewNodePrivate()
	public := k.Public()
	sealed := append(public[:], theirPrivate(k).SealTo(theirPublic(relays[0].public), []byte(ordinaryInfo))...)
	broken := bytes.Clone(sealed)
	broken[len(broken)-1]++
	for name, frame := range map[string][]byte{
		"good":               frameOf(derp.FrameClientInfo, sealed),
		"broken box":         frameOf(derp.FrameClientInfo, broken),
		"zero key":           frameOf(derp.FrameClientInfo, append(make([]byte, 32), sealed[32:]...)),
		"key only":           frameOf(derp.FrameClientInfo, sealed[:32]),
		"no box":             frameOf(derp.FrameClientInfo, sealed[:56]),
		"empty":              frameOf(derp.FrameClientInfo, nil),
		"too long":           {byte(derp.FrameClientInfo), 0, 4, 0, 1},
		"ping":               frameOf(derp.FramePing, make([]byte, 8)),
		"unknown":            frameOf(0x7f, make([]byte, 8)),
		"ServerInfo instead": frameOf(derp.FrameServerInfo, sealed),
	} {
		var took [2]bool
		for i, h := range relays {
			c := dialRaw(t, h)
			c.upgrade()
			c.Write(frame)
			c.Conn.(*net.TCPConn).CloseWrite()
			typ, _ := c.frame()
			took[i] = typ == derp.FrameServerInfo
			c.Close()
		}
		if took[0] != took[1] || took[0] != (name == "good") {
			t.Errorf("%s: our server accepts it: %v, theirs: %v", name, took[0], took[1])
		}
	}
}

// TestOddUpgrades proves that our server answers upgrade requests as theirs does: with the same
// bytes if both accept, with the same status if both refuse.
func TestOddUpgrades(t *testing.T) {
	t.Parallel()
	relays := bothRelays(t, relay.MeshKey{})
	for _, request := range []string{
		"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n",
		"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: derp\r\nConnection: upgrade\r\n\r\n",
		"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DeRp\r\n\r\n",
		"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
		"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n",
		"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nDerp-Fast-Start: true\r\n\r\n",
		"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nIdeal-Node: 1a\r\n\r\n",
		"GET /derp?x=y HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\n\r\n",
		"POST /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\n\r\n",
		"POST /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nContent-Length: 3\r\n\r\nabc",
		"GET /derp HTTP/1.0\r\nUpgrade: DERP\r\n\r\n",
		"GET /derp HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n",
		"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP, websocket\r\n\r\n",
	} {
		var got [2]string
		for i, h := range relays {
			c := dialRaw(t, h)
			io.WriteString(c, request)
			got[i] = c.answer()
			c.Close()
		}
		if got[0] != got[1] {
			t.Errorf("request %q:\nour server   %q\ntheir server %q", request, got[0], got[1])
		}
	}
}

// answer returns a server's answer to an upgrade request up to the ServerKey frame, or the status
// of a refusal.
func (c *rawConn) answer() string {
	c.t.Helper()
	const size = 5 + 8 + 32 // ServerKey frame: header, magic, key
	var all bytes.Buffer
	br := bufio.NewReader(io.TeeReader(c.br, &all))
	c.br = br
	if first, err := br.Peek(5); err == nil && string(first) == "HTTP/" {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			c.t.Fatal(err)
		}
		if resp.StatusCode != http.StatusSwitchingProtocols {
			return resp.Status
		}
	}
	if _, err := io.ReadFull(br, make([]byte, size)); err != nil {
		c.t.Fatalf("reading the ServerKey frame behind %q: %v", all.String(), err)
	}
	return all.String()
}
