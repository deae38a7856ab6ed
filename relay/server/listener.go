package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"ginnel/relay/internal/derp"
)

const (
	tcpKeepAliveIdle     = 10 * time.Minute // (1.2)
	tcpKeepAliveInterval = 15 * time.Second
	maxAcceptPause       = time.Second
)

// Listen opens a TCP port for a relay. It disables Multipath TCP, which does not support the time
// limit by which dead clients are found (1.2).
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", addr)
}

// Listener returns ln as [Server.Serve] uses it, for a program that has an [http.Server] of its
// own. It closes connections beyond Config.AcceptRate at once, sets the socket options of a relay,
// continues after an accept that failed for lack of file descriptors, and speaks TLS if conf, which
// [Server.TLSConfig] made, is not nil.
func (s *Server) Listener(ln net.Listener, conf *tls.Config) net.Listener {
	return &listener{Listener: ln, s: s, conf: conf, donec: make(chan struct{})}
}

type listener struct {
	net.Listener
	s    *Server
	conf *tls.Config

	once  sync.Once
	donec chan struct{}
}

// Accept returns the next connection within the rate. It fails only after Close, or when the
// listener below is closed.
func (l *listener) Accept() (net.Conn, error) {
	for pause := time.Duration(0); ; {
		conn, err := l.Listener.Accept()
		if err != nil {
			if !isTemporary(err) {
				return nil, err
			}
			pause = min(max(2*pause, 5*time.Millisecond), maxAcceptPause)
			l.s.clientLogs.accepting.Write(time.Now(), netip.Prefix{}, "err", err, "pause", pause)
			if !l.pause(pause) {
				return nil, net.ErrClosed
			}
			continue
		}
		pause = 0
		if !l.s.acceptLimit.allow(time.Now(), conn) {
			l.s.metrics.refused.WithLabelValues(refusedRate).Inc()
			conn.Close()
			continue
		}
		return l.prepare(conn), nil
	}
}

// isTemporary reports whether accepting may succeed later. That is so if the system lacks
// descriptors or memory, or if the client has left before it was accepted.
func isTemporary(err error) bool {
	for _, errno := range temporaryErrnos {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

var temporaryErrnos = [...]syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR,
}

// pause waits for d. It reports whether the listener is still open.
func (l *listener) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.donec:
		return false
	}
}

// prepare sets the socket options of an accepted connection and puts TLS on it.
func (l *listener) prepare(conn net.Conn) net.Conn {
	conn = derp.WrapTCP(conn, net.KeepAliveConfig{Enable: true, Idle: tcpKeepAliveIdle, Interval: tcpKeepAliveInterval})
	if l.conf == nil {
		return conn
	}
	return tls.Server(conn, l.conf)
}

// Close closes the listener below.
func (l *listener) Close() error {
	l.once.Do(l.done)
	return l.Listener.Close()
}

func (l *listener) done() { close(l.donec) }
