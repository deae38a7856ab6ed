package netlab

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"ginnel/internal/netem"
)

// TestSub proves that Sub subtracts every counter.
func TestSub(t *testing.T) {
	early := Counters{Forward: netem.Stats{Packets: 1, Bytes: 2, QueueFull: 3, Lost: 4, TooLong: 5, Late: 6},
		Back: netem.Stats{Packets: 7}, Overrun: 1}
	late := Counters{Forward: netem.Stats{Packets: 11, Bytes: 22, QueueFull: 33, Lost: 44, TooLong: 55, Late: 66},
		Back: netem.Stats{Packets: 8}, Overrun: 3}
	want := Counters{Forward: netem.Stats{Packets: 10, Bytes: 20, QueueFull: 30, Lost: 40, TooLong: 50, Late: 60},
		Back: netem.Stats{Packets: 1}, Overrun: 2}
	if got := late.Sub(early); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestSendDrops proves that the column is read for the right device, and that an unknown device is
// an error.
func TestSendDrops(t *testing.T) {
	const text = "Inter-|   Receive | Transmit\n face |bytes packets errs drop fifo frame compressed multicast" +
		"|bytes packets errs drop ...\n" +
		"  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\neth01: 1 2 3 4 5 6 7 8 9 10 11 99 13 14 15 16\n"
	if got, err := parseSendDrops(text, "eth0"); got != 12 || err != nil {
		t.Errorf("got %d, %v, want 12", got, err)
	}
	for _, bad := range []string{"", "eth0: 1 2 3\n", "eth0: 1 2 3 4 5 6 7 8 9 10 11 x 13\n", "face"} {
		if got, err := parseSendDrops(bad, "eth0"); err == nil {
			t.Errorf("%q: got %d, want an error", bad, got)
		}
	}
}

// TestEmulateRefuses proves that an emulator with invalid arguments fails and creates no device.
func TestEmulateRefuses(t *testing.T) {
	for _, args := range [][]string{nil, {"a", "b", "delay=1ms"}, {"a", "b", "nonsense", ""}} {
		var out bytes.Buffer
		if err := Emulate(t.Context(), args, &out); err == nil || out.Len() > 0 {
			t.Errorf("%q: got %v, wrote %q", args, err, out.String())
		}
	}
}

// TestExplain proves that the error says what an emulated path needs.
func TestExplain(t *testing.T) {
	for cause, want := range map[error]string{os.ErrNotExist: "tun driver", os.ErrPermission: "/dev/net/tun"} {
		err := &os.PathError{Op: "open", Path: "/dev/net/tun", Err: cause}
		if got := explain(err); !errors.Is(got, cause) || !strings.Contains(got.Error(), want) {
			t.Errorf("got %v", got)
		}
	}
}
