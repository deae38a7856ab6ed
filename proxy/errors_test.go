package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
)

// dialErrors holds errors that Dial may return, plain and as package net wraps them.
var dialErrors = []struct {
	err   error
	want  reason
	socks byte
	http  int
}{
	{syscall.EACCES, denied, 0x02, 403},
	{syscall.EPERM, denied, 0x02, 403},
	{fs.ErrPermission, denied, 0x02, 403},
	{wrapped(syscall.EACCES), denied, 0x02, 403},
	{fmt.Errorf("policy of db: %w", fs.ErrPermission), denied, 0x02, 403},
	{wrapped(syscall.ENETUNREACH), networkUnreachable, 0x03, 502},
	{wrapped(syscall.EHOSTUNREACH), hostUnreachable, 0x04, 502},
	{fmt.Errorf("db is offline since noon: %w", syscall.EHOSTUNREACH), hostUnreachable, 0x04, 502},
	{&net.OpError{Op: "dial", Err: &net.DNSError{Name: "nobody", IsNotFound: true}}, hostUnreachable, 0x04, 502},
	{wrapped(syscall.ECONNREFUSED), connectionRefused, 0x05, 502},
	{wrapped(syscall.ETIMEDOUT), timedOut, 0x06, 504},
	{context.DeadlineExceeded, timedOut, 0x06, 504},
	{os.ErrDeadlineExceeded, timedOut, 0x06, 504},
	{&net.DNSError{Name: "slow", IsTimeout: true}, timedOut, 0x06, 504},
	{&net.DNSError{Name: "odd"}, otherFailure, 0x01, 502},
	{wrapped(syscall.EMFILE), otherFailure, 0x01, 502},
	{io.ErrUnexpectedEOF, otherFailure, 0x01, 502},
	{errors.New("anything"), otherFailure, 0x01, 502},
}

func wrapped(err syscall.Errno) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)}
}

func TestReasons(t *testing.T) {
	for _, tt := range dialErrors {
		if got := reasonOf(tt.err); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.err, got, tt.want)
		}
	}
}

// A failed dial is reported in the terms of each protocol, and counted.
func TestFailedDials(t *testing.T) {
	for _, tt := range dialErrors {
		t.Run(tt.err.Error(), func(t *testing.T) {
			s := &Server{Dial: dialFail(tt.err)}
			addr := serve(t, s)
			dialChat(t, "tcp", addr).send("05 01 00 05 01 00 03 01 61 00 50").
				want(fmt.Sprintf("05 00 05 %02x 00 01 00 00 00 00 00 00", tt.socks)).wantEnd()
			dialChat(t, "tcp", addr).send("04 01 00 50 01 02 03 04 00").want("00 5b 00 00 00 00 00 00").wantEnd()
			// The prefix "reaching" replaces "dial".
			cause := strings.TrimPrefix(strings.TrimPrefix(tt.err.Error(), "dial tcp: "), "dial: ")
			body := strings.TrimSpace("reaching a:80: "+cause) + "\n"
			if tt.err == context.DeadlineExceeded {
				body = "reaching a:80: no answer within 30s: context deadline exceeded\n"
			}
			for _, name := range []string{"connect", "absolute"} {
				wantResponse(t, dialChat(t, "tcp", addr).say(requests[name]), tt.http, body)
			}
			if got := s.counters.failed[tt.want].Load(); got != 4 {
				t.Errorf("counted %d, want 4", got)
			}
		})
	}
}

func TestDialFailuresInStats(t *testing.T) {
	s := new(Server)
	for r := range s.counters.failed {
		s.counters.failed[r].Store(uint64(r + 1))
	}
	want := DialFailures{Denied: 1, NetworkUnreachable: 2, HostUnreachable: 3, Refused: 4, TimedOut: 5, Other: 6}
	if got := s.Stats().DialFailures; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// An error may quote a client or a peer. sentence makes it one line of bounded length without
// control characters.
func TestSentenceIsHarmless(t *testing.T) {
	got := sentence(errors.New("no <b>name</b>\r\nX-Evil: 1\x00\x7f\u009b31m\xff" + strings.Repeat("é", maxSentence)))
	if want := "no <b>name</b> X-Evil: 1???31m?é"; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q ...", got[:50], want)
	}
	if len(got) > maxSentence+len("...") || !strings.HasSuffix(got, "é...") {
		t.Errorf("%d bytes, ending in %q", len(got), got[len(got)-10:])
	}
}

// wantResponse reads a response and compares its status and body; the body is plain text.
func wantResponse(t *testing.T, c *chat, status int, body string) *http.Response {
	t.Helper()
	res := readResponse(t, c, "GET")
	got, err := io.ReadAll(res.Body)
	if res.StatusCode != status || string(got) != body || err != nil {
		t.Errorf("got %d %q %v, want %d %q", res.StatusCode, got, err, status, body)
	}
	if got, want := res.Header.Get("Content-Type"), "text/plain; charset=utf-8"; got != want {
		t.Errorf("Content-Type is %q, want %q", got, want)
	}
	return res
}
