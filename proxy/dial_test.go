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

// requests ask for a tunnel in every protocol, in one piece.
var requests = map[string]string{
	"socks5":   "\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x50",
	"socks4":   "\x04\x01\x00\x50\x01\x02\x03\x04\x00",
	"connect":  "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
	"absolute": "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
}

// hangingDial is a Dial that goes on until its context ends, whose cause it passes to ended.
func hangingDial(started chan struct{}, ended chan error) dialFunc {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		started <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}
}

// A dial ends when its client goes away, in whatever way and whether or not it has sent bytes
// ahead.
func TestClientLeavesDuringDial(t *testing.T) {
	ways := []struct {
		name  string
		ahead int
		leave func(c *chat)
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
				continue // net/http reads one byte ahead, and sees no further
			}
			for _, network := range []string{"tcp", "unix"} {
				t.Run(fmt.Sprintf("%s/%s/%d ahead/%s", name, way.name, way.ahead, network), func(t *testing.T) {
					t.Parallel()
					started, ended := make(chan struct{}, 1), make(chan error, 1)
					s := &Server{Dial: hangingDial(started, ended), DialTimeout: finishedShare * 200 * time.Millisecond}
					addr := serveKind(t, network, s)
					asked := time.Now() // the share counts from the dial's beginning if the client leaves soon after it
					c := dialChat(t, network, addr.String()).say(request).write(make([]byte, way.ahead))
					<-started
					way.leave(c)
					if err := <-ended; !errors.Is(err, context.Canceled) {
						t.Errorf("dial ended with %v, want %v", err, context.Canceled)
					}
					// A TCP client that closes looks like one that has finished and waits. (One that leaves the
					// reply to its greeting unread resets the connection.)
					if waits := name != "absolute" && (way.name == "finishing" || way.name == "closing" && network == "tcp" && name != "socks5"); waits {
						if took := time.Since(asked); took < s.DialTimeout/finishedShare {
							t.Errorf("dial ended after %v", took)
						}
					}
					eventually(t, "the connection is let go", func() bool { return s.Stats().OpenConnections == 0 })
					if got := s.Stats().DialFailures; got != (DialFailures{}) {
						t.Errorf("counted as a failure: %+v", got)
					}
				})
			}
		}
	}
}

// A client that has sent all it had, even if that was nothing, may be waiting for the answer.
func TestFinishedClientIsAnswered(t *testing.T) {
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

// Over conns that show their end only to a reader, the same holds as far as it can.
func TestClientLeavesDuringDialInMemory(t *testing.T) {
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
				want := 30 * time.Second / finishedShare // for what such a client may wait
				if name == "absolute" {
					want = 0 // net/http takes it for gone
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
				want := map[string]string{"socks5": "\x06\x00\x01", "socks4": "\x5b", "connect": "no answer within 30s", "absolute": "no answer within 30s"}
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
					// A client that has been answered something is given partTime to read it.
					if took := time.Since(begun); took < 7*time.Second || took > 7*time.Second+partTime {
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

// One byte at a time keeps nobody in the handshake for longer.
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
				// The write that fails may come one step after the end.
				if took := time.Since(begun); took > 10*time.Second+partTime+3*time.Second {
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

// An open tunnel may be silent for as long as it likes.
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

// Errors of Accept that will pass are waited out, longer each time; one that will not ends Serve.
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
		client := ln.dial() // after a success it starts afresh
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
