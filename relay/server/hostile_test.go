package server

import (
	"bytes"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/relay/internal/rawpeer"
	"ginnel/relay/internal/relaytest"
)

// A logged-in client that sends garbage loses its connection; other clients do not notice.
func TestHostileFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{})
		a, b := r.Client(), r.Client()
		for i := range 200 {
			p := r.Client()
			garbage := make([]byte, 1+i*37)
			rand.Read(garbage)
			p.Conn.Write(garbage)
			if i%2 == 0 {
				p.Conn.Close()
			}
		}
		a.Send(b.Public(), "fine")
		b.WantPacket(a.Public(), "fine")
	})
}

// Connections beyond AcceptRate are closed at once and counted (4.8).
func TestAcceptRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{AcceptRate: 1, AcceptBurst: 3})
		for range 3 {
			r.Client()
		}
		for range 5 {
			r.Dial().WantClosed()
		}
		r.wantMetric(t, `ginnel_relay_refused_connections_total{reason="rate"}`, 5)
		time.Sleep(time.Second)
		r.Client().Ping()
	})
}

// failingListener returns errors, then connections.
type failingListener struct {
	net.Listener
	errs []error
}

func (l *failingListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, err
	}
	return l.Listener.Accept()
}

// A long lack of descriptors does not fill the log; suppressed lines are counted.
func TestAcceptFailuresInLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		n := relaytest.NewNet()
		s := newTestServer(t, Config{Log: slog.New(slog.NewTextHandler(&logged, nil))})
		ln := &failingListener{Listener: n.Listen("relay.example:80")}
		for range 100 {
			ln.errs = append(ln.errs, &net.OpError{Op: "accept", Net: "tcp",
				Err: os.NewSyscallError("accept4", syscall.EMFILE)})
		}
		rawpeer.Serve(t, s, ln, nil)
		time.Sleep(2 * time.Minute)
		r := &memRelay{s, &rawpeer.Relay{T: t, Net: n, ServerKey: s.PublicKey()}}
		r.Client().Ping()
		written, counted := strings.Count(logged.String(), `msg="accepting`),
			strings.Count(logged.String(), "suppressed")
		if written < 3 || written > 6 || counted < 1 || counted > 2 {
			t.Errorf("%d lines of failures and %d with counts in 100 s:\n%s", written, counted, logged.String())
		}
	})
}

// The server continues after a temporary failure of accept, and ends after a lasting one. Close
// ends the pause between two accepts.
func TestAcceptSurvivesLackOfDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := relaytest.NewNet()
		s := newTestServer(t, Config{})
		ln := &failingListener{Listener: n.Listen("relay.example:80")}
		for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, syscall.EMFILE} {
			ln.errs = append(ln.errs, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", errno)})
		}
		rawpeer.Serve(t, s, ln, nil)
		r := &memRelay{s, &rawpeer.Relay{T: t, Net: n, ServerKey: s.PublicKey()}}
		r.Client().Ping()
	})
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, Config{})
		broken := errors.New("broken for good")
		if err := s.Serve(&failingListener{Listener: relaytest.NewNet().Listen("a:80"), errs: []error{broken}},
			nil); !errors.Is(err, broken) {
			t.Errorf("Serve = %v", err)
		}
		// Close ends a pause.
		ln := s.Listener(&failingListener{Listener: relaytest.NewNet().Listen("a:80"),
			errs: repeatError(syscall.EMFILE, 100)}, nil)
		go func() {
			time.Sleep(10 * time.Second)
			ln.Close()
		}()
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept = %v", err)
		}
		ln.Close()
	})
}

func repeatError(err error, n int) (errs []error) {
	for range n {
		errs = append(errs, err)
	}
	return errs
}
