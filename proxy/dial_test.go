package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// requests holds a complete request to connect in each protocol.
var requests = map[string]string{
	"socks5":   "\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x50",
	"socks4":   "\x04\x01\x00\x50\x01\x02\x03\x04\x00",
	"connect":  "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
	"absolute": "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
}

// hangingDial is a Dial that blocks until its context ends, and sends the context's error to ended.
func hangingDial(started chan struct{}, ended chan error) dialFunc {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		started <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}
}

// A dial is cancelled when its client hangs up, in any way, whether or not the client has sent
// bytes ahead.
func TestHangupDuringDial(t *testing.T) {
	ways := []struct {
		name   string
		ahead  int
		hangUp func(c *chat)
	}{
		{"closing", 0, func(c *chat) { c.Close() }},
		{"resetting", 0, reset},
		{"finishing", 0, func(c *chat) { c.finish() }},
		{"closing", 10000, func(c *chat) { c.Close() }},
		{"resetting", 10000, reset},
		{"finishing", 10000, func(c *chat) { c.finish() }},
	}
	for name, request := range requests {
		for _, way := range ways {
			if name == "absolute" && way.ahead > 0 {
				continue // net/http reads one byte ahead, and sees no hang-up behind it
			}
			for _, network := range []string{"tcp", "unix"} {
				t.Run(fmt.Sprintf("%s/%s/%d ahead/%s", name, way.name, way.ahead, network), func(t *testing.T) {
					t.Parallel()
					started, ended := make(chan struct{}, 1), make(chan error, 1)
					s := &Server{Dial: hangingDial(started, ended), DialTimeout: eofDivisor * 200 * time.Millisecond}
					addr := serveKind(t, network, s)
					asked := time.Now() // the time after an EOF counts from the start of the dial if the EOF comes soon after it
					c := dialChat(t, network, addr.String()).say(request).write(make([]byte, way.ahead))
					<-started
					way.hangUp(c)
					if err := <-ended; !errors.Is(err, context.Canceled) {
						t.Errorf("dial ended with %v, want %v", err, context.Canceled)
					}
					// A TCP client that closes its socket looks like one that has half-closed it. (In SOCKS5 the
					// socket has an unread reply, so that closing it sends a reset.)
					looksHalfClosed := way.name == "finishing" ||
						way.name == "closing" && network == "tcp" && name != "socks5"
					if name != "absolute" && looksHalfClosed {
						if took := time.Since(asked); took < s.DialTimeout/eofDivisor {
							t.Errorf("dial ended after %v", took)
						}
					}
					eventually(t, "the connection is closed", func() bool { return s.Stats().OpenConnections == 0 })
					if got := s.Stats().DialFailures; got != (DialFailures{}) {
						t.Errorf("counted as a failure: %+v", got)
					}
				})
			}
		}
	}
}

// A client that half-closes its connection during the dial still gets the answer, even if it has
// sent nothing.
func TestHalfClosedClientIsAnswered(t *testing.T) {
	for name, request := range requests {
		if name == "absolute" {
			continue
		}
		t.Run(name+"/silent", func(t *testing.T) {
			tg := newTarget(t, "tcp")
			start, started := make(chan struct{}), make(chan struct{})
			s := &Server{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				close(started)
				<-start
				return tg.dial(ctx, network, addr)
			}}
			c := dialChat(t, "tcp", serve(t, s)).say(request).finish()
			<-started
			close(start)
			tg.accept().say("banner").Close()
			answer, err := io.ReadAll(c)
			if err != nil || !strings.HasSuffix(string(answer), "banner") {
				t.Errorf("got %q, %v", answer, err)
			}
		})
		t.Run(name, func(t *testing.T) {
			tg := newTarget(t, "tcp")
			start, started := make(chan struct{}), make(chan struct{})
			s := &Server{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				close(started)
				<-start
				return tg.dial(ctx, network, addr)
			}}
			c := dialChat(t, "tcp", serve(t, s)).say(request + "question").finish()
			<-started
			close(start)
			tg.accept().hear("question").say("answer").Close()
			answer, err := io.ReadAll(c)
			if err != nil || !strings.HasSuffix(string(answer), "answer") {
				t.Errorf("got %q, %v", answer, err)
			}
		})
	}
}

// Conns that show a hang-up only to Read cannot tell a half-close from a close.
func TestHangupDuringDialInMemory(t *testing.T) {
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				started, ended := make(chan struct{}, 1), make(chan error, 1)
				ln, s := newMemListener(), &Server{Dial: hangingDial(started, ended)}
				go s.Serve(ln)
				defer s.Close()
				client := ln.dial()
				go io.Copy(io.Discard, client)
				io.WriteString(client, request)
				<-started
				begun := time.Now()
				client.Close()
				want := 30 * time.Second / eofDivisor // a client that has half-closed may wait for the answer
				if name == "absolute" {
					want = 0 // net/http takes the EOF for a close
				}
				if err := <-ended; !errors.Is(err, context.Canceled) || time.Since(begun) != want {
					t.Errorf("dial ended with %v after %v, want %v", err, time.Since(begun), want)
				}
			})
		})
	}
}

func TestByteAheadOfDialInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newMemListener()
		s := &Server{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			time.Sleep(time.Second)
			return dialEcho(ctx, network, addr)
		}}
		go s.Serve(ln)
		defer s.Close()
		client := ln.dial()
		defer client.Close()
		io.WriteString(client, requests["socks4"])
		go io.WriteString(client, "ahead")
		want := "\x00\x5a\x00\x00\x00\x00\x00\x00ahead"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(client, got); string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	})
}

func TestDialTimeout(t *testing.T) {
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				started, ended := make(chan struct{}, 1), make(chan error, 1)
				ln, s := newMemListener(), &Server{Dial: hangingDial(started, ended)}
				go s.Serve(ln)
				defer s.Close()
				client := ln.dial()
				begun := time.Now()
				io.WriteString(client, request)
				answer := make(chan string, 1)
				go func() { b, _ := io.ReadAll(client); answer <- string(b) }()
				if err := <-ended; !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 30*time.Second {
					t.Errorf("dial ended with %v after %v", err, time.Since(begun))
				}
				if name == "absolute" {
					synctest.Wait()
					client.Close()
				}
				got := <-answer
				want := map[string]string{"socks5": "\x06\x00\x01", "socks4": "\x5b",
					"connect": "no answer within 30s", "absolute": "no answer within 30s"}
				if !strings.Contains(got, want[name]) || s.Stats().DialFailures.TimedOut != 1 {
					t.Errorf("got %q, counted %+v", got, s.Stats().DialFailures)
				}
				client.Close()
			})
		})
	}
}

func TestHandshakeTimeout(t *testing.T) {
	for name, request := range requests {
		for _, part := range []int{0, 1, len(request) / 2, len(request) - 1} {
			t.Run(fmt.Sprintf("%s/%d", name, part), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ln, s := newMemListener(), &Server{Dial: dialEcho, HandshakeTimeout: 7 * time.Second}
					go s.Serve(ln)
					defer s.Close()
					client := ln.dial()
					begun := time.Now()
					io.WriteString(client, request[:part])
					io.Copy(io.Discard, client)
					// A client that was sent a reply has lingerTime to read it.
					if took := time.Since(begun); took < 7*time.Second || took > 7*time.Second+lingerTime {
						t.Errorf("closed after %v", took)
					}
					client.Close()
					synctest.Wait()
					if got := s.Stats(); got.HandshakesFailed != 1 || got.OpenConnections != 0 {
						t.Errorf("counted %d failures, %d open", got.HandshakesFailed, got.OpenConnections)
					}
				})
			})
		}
	}
}

// A client that sends one byte at a time does not extend its handshake.
func TestSlowloris(t *testing.T) {
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln, s := newMemListener(), &Server{Dial: dialEcho, HandshakeTimeout: 10 * time.Second}
				go s.Serve(ln)
				defer s.Close()
				client := ln.dial()
				go io.Copy(io.Discard, client)
				begun := time.Now()
				for i := range request {
					if _, err := io.WriteString(client, request[i:i+1]); err != nil {
						break
					}
					time.Sleep(3 * time.Second)
				}
				// The client may notice only at its next write.
				if took := time.Since(begun); took > 10*time.Second+lingerTime+3*time.Second {
					t.Errorf("lasted %v", took)
				}
				client.Close()
			})
		})
	}
}

func TestHeaderTooLarge(t *testing.T) {
	addr := serve(t, &Server{Dial: dialEcho})
	c := dialChat(t, "tcp", addr)
	go io.WriteString(c, "GET http://a/ HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("x", 2*maxHeaderBytes)+"\r\n\r\n")
	c.hear("HTTP/1.1 431 ")
}

func TestIdleHTTPConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, s := newMemListener(), &Server{Dial: dialEcho, IdleTimeout: time.Minute}
		go s.Serve(ln)
		defer s.Close()
		client := ln.dial()
		begun := time.Now()
		go io.WriteString(client, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		io.Copy(io.Discard, client)
		if took := time.Since(begun); took != time.Minute {
			t.Errorf("closed after %v", took)
		}
		client.Close()
	})
}

// A tunnel has no idle timeout.
func TestIdleTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, s := newMemListener(), &Server{Dial: dialEcho}
		go s.Serve(ln)
		defer s.Close()
		client := ln.dial()
		defer client.Close()
		greet(t, client)
		time.Sleep(100 * time.Hour)
		go io.WriteString(client, "still")
		got := make([]byte, 5)
		if _, err := io.ReadFull(client, got); err != nil {
			t.Error(err)
		}
	})
}

// After a transient error Accept is tried again, with a delay that doubles. Any other error ends
// Serve.
func TestAcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, s := newMemListener(), &Server{Dial: dialEcho}
		served := make(chan error, 1)
		go func() { served <- s.Serve(ln) }()
		next := func(err error) time.Duration {
			begun := time.Now()
			ln.errs <- err
			return time.Since(begun)
		}
		delay := time.Duration(0)
		for _, err := range []error{syscall.EMFILE, syscall.ENFILE, wrapped(syscall.EMFILE), syscall.ENOBUFS, syscall.ENOMEM,
			syscall.ECONNABORTED, syscall.EMFILE, syscall.EMFILE, syscall.EMFILE, syscall.EMFILE} {
			if took := next(err); took != delay {
				t.Fatalf("accepted again after %v, want %v", took, delay)
			}
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		}
		client := ln.dial() // a success resets the delay
		defer client.Close()
		next(syscall.EMFILE)
		if took, want := next(syscall.EMFILE), 5*time.Millisecond; took != want {
			t.Errorf("accepted again after %v, want %v", took, want)
		}
		ln.errs <- io.ErrUnexpectedEOF
		if err := <-served; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Serve returned %v", err)
		}
		s.Close()
	})
}
