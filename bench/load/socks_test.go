package load

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
)

// exchange is a connection whose other side has sent everything in advance.
type exchange struct {
	io.Reader
	sent bytes.Buffer
}

func (e *exchange) Write(b []byte) (int, error) { return e.sent.Write(b) }

func fromHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSOCKS5 proves the bytes that are sent and the parsing of the answers (RFC 1928, sections 3, 4
// and 6), and that nothing beyond the answer is read from the connection.
func TestSOCKS5(t *testing.T) {
	for _, c := range []struct {
		name, target, answer, sent, addr string
	}{
		{"IPv4", "100.64.0.1:8000", "0500 05000001 7f000001 0438", "050100 05010001 64400001 1f40", "127.0.0.1:1080"},
		{"IPv6", "[fd00::1]:80", "0500 05000004 00000000000000000000000000000001 0050",
			"050100 05010004 fd000000000000000000000000000001 0050", "[::1]:80"},
		{"name", "100.64.0.1:8000", "0500 05000003 09 3132372e302e302e32 0050", "050100 05010001 64400001 1f40",
			"127.0.0.2:80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer := fromHex(t, c.answer)
			in := bytes.NewReader(append(bytes.Clone(answer), "data"...))
			e := &exchange{Reader: in}
			addr, err := askSOCKS5(e, socksConnect, netip.MustParseAddrPort(c.target))
			if err != nil || addr != netip.MustParseAddrPort(c.addr) {
				t.Errorf("got %v, %v, want %s", addr, err, c.addr)
			}
			if want := fromHex(t, c.sent); !bytes.Equal(e.sent.Bytes(), want) {
				t.Errorf("sent %x, want %x", e.sent.Bytes(), want)
			}
			if rest, _ := io.ReadAll(in); string(rest) != "data" {
				t.Errorf("unread data after the answer: %q, want data", rest)
			}
			for n := range answer {
				e := &exchange{Reader: bytes.NewReader(answer[:n])}
				if addr, err := askSOCKS5(e, socksConnect, netip.MustParseAddrPort(c.target)); err == nil {
					t.Errorf("after %d bytes of the answer: got %v, want an error", n, addr)
				}
			}
		})
	}
}

// TestSOCKS5Refuses proves that a refusal is an error with its code, and that invalid answers are
// errors.
func TestSOCKS5Refuses(t *testing.T) {
	target := netip.MustParseAddrPort("100.64.0.1:8000")
	for _, answer := range []string{"05ff", "0400", "0502", "0500 04000001 00000000 0000", "0500 05000002 00000000 0000",
		"485454502f31"} {
		if addr, err := askSOCKS5(&exchange{Reader: bytes.NewReader(fromHex(t, answer))}, socksConnect, target); err == nil {
			t.Errorf("%s: got %v, want an error", answer, addr)
		}
	}
	_, err := askSOCKS5(&exchange{Reader: bytes.NewReader(fromHex(t, "0500 05040001 00000000 0000"))}, socksConnect,
		target)
	if code, ok := errors.AsType[socksError](err); !ok || code != 4 {
		t.Errorf("got %v, want code 4", err)
	}
}

// TestDatagramOf proves that the header is removed for each type of address, and that a truncated
// header is an error.
func TestDatagramOf(t *testing.T) {
	for _, head := range []string{"000000 01 01020304 0050", "000000 04 00000000000000000000000000000001 0050",
		"000000 03 02 6162 0050"} {
		h := fromHex(t, head)
		if got, err := datagramOf(append(bytes.Clone(h), "data"...)); string(got) != "data" || err != nil {
			t.Errorf("%s: got %q, %v", head, got, err)
		}
		for n := range h {
			if got, err := datagramOf(h[:n]); err == nil {
				t.Errorf("%x: got %q, want an error", h[:n], got)
			}
		}
	}
	for _, bad := range []string{"000001 01 01020304 0050", "000000 02 01020304 0050"} {
		if got, err := datagramOf(fromHex(t, bad)); err == nil {
			t.Errorf("%s: got %q, want an error", bad, got)
		}
	}
}
