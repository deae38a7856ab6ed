package userstack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A connection makes progress although its windows are full in both directions and one side reads
// only after its own bytes were acknowledged. The rest of a window must not be rejected; see
// lowerWindow.
func TestFullWindows(t *testing.T) {
	data := randomBytes(12<<20, 1)
	for mtu := 1390; mtu <= 1400; mtu += 2 { // for some MTUs the rest of a window is small
		p := &pair{mtu: mtu, late: shortTail}
		p.start(t)
		a, b := p.connect(t, addrB4)
		if err := exchangeInTurn(a, b, data); err != nil {
			t.Errorf("MTU %d: %v", mtu, err)
		}
		p.a.Close()
		p.b.Close()
	}
}

// shortTail reports whether packet has less payload than one unit of the window in its header. Such
// a packet is delivered late, when the window is closed.
func shortTail(packet []byte) bool {
	_, hdr, _ := classify(packet)
	n := len(packet) - hdr
	return n > 1 && n < 128
}

// exchangeInTurn sends data in both directions. b reads after it has written everything, a after
// both windows are full.
func exchangeInTurn(a, b net.Conn, data []byte) error {
	deadline := time.Now().Add(10 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	errc := make(chan error, 3)
	go func() { errc <- sendAll(a, data) }()
	go func() { errc <- errors.Join(sendAll(b, data), wantAll(b, data)) }()
	go func() {
		time.Sleep(50 * time.Millisecond)
		errc <- wantAll(a, data)
	}()
	return errors.Join(<-errc, <-errc, <-errc)
}

func sendAll(c net.Conn, data []byte) error {
	n, err := c.Write(data)
	if err != nil {
		return fmt.Errorf("%d of %d bytes sent: %w", n, len(data), err)
	}
	return nil
}

func wantAll(c net.Conn, data []byte) error {
	got := make([]byte, len(data))
	if n, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("%d of %d bytes received: %w", n, len(data), err)
	}
	if !bytes.Equal(got, data) {
		return errors.New("other bytes received")
	}
	return nil
}

// A window is lowered by one unit, except for a window of one unit and that of a SYN.
func TestLowerWindow(t *testing.T) {
	for _, c := range []struct {
		flags     header.TCPFlags
		was, want uint16
	}{
		{header.TCPFlagAck, 65535, 65534},
		{header.TCPFlagAck | header.TCPFlagPsh, 2, 1},
		{header.TCPFlagAck, 1, 1},
		{header.TCPFlagAck, 0, 0},
		{header.TCPFlagSyn, 65535, 65535},
		{header.TCPFlagSyn | header.TCPFlagAck, 512, 512},
	} {
		tcp := make(header.TCP, header.TCPMinimumSize)
		tcp.Encode(&header.TCPFields{SrcPort: 1, DstPort: 2, SeqNum: 3, AckNum: 4,
			DataOffset: header.TCPMinimumSize, Flags: c.flags, WindowSize: c.was})
		want := bytes.Clone(tcp)
		binary.BigEndian.PutUint16(want[tcpWindowOffset:], c.want)
		if lowerWindow(tcp); !bytes.Equal(tcp, want) {
			t.Errorf("%v with window %d became %x, want %x", c.flags, c.was, []byte(tcp), want)
		}
	}
}
