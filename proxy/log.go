package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"
)

// protocol is how a client made its request.
type protocol int

const (
	protoSOCKS5 protocol = iota
	protoSOCKS5UDP
	protoSOCKS4
	protoConnect
	protoHTTP
	protoForward
)

var protocolNames = [...]string{
	protoSOCKS5:    "socks5",
	protoSOCKS5UDP: "socks5-udp",
	protoSOCKS4:    "socks4",
	protoConnect:   "http-connect",
	protoHTTP:      "http",
	protoForward:   "forward",
}

func (p protocol) String() string { return protocolNames[p] }

// entry is one line of ConnLog.
type entry struct {
	protocol       protocol
	destination    string
	started        time.Time
	sent, received uint64
}

// firstError keeps the first error that ended a goroutine of a connection. It drops later ones,
// because they follow from the first, and net.ErrClosed, because it follows from our own Close.
type firstError struct{ p atomic.Pointer[error] }

func (f *firstError) set(err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) {
		f.p.CompareAndSwap(nil, &err)
	}
}

func (f *firstError) get() error {
	if err := f.p.Load(); err != nil {
		return *err
	}
	return nil
}

// log writes e, which ends now. err says why it was refused or cut short; nil if it was not.
func (c *conn) log(e entry, err error) { c.srv.logEntry(c.RemoteAddr(), e, err) }

func (s *Server) logEntry(client net.Addr, e entry, err error) {
	l := s.connLog()
	if !l.Enabled(context.Background(), slog.LevelInfo) {
		return
	}
	attrs := []slog.Attr{
		slog.String("protocol", e.protocol.String()),
		slog.String("client", client.String()),
		slog.String("destination", e.destination),
		slog.Uint64("sent", e.sent),
		slog.Uint64("received", e.received),
		slog.Duration("duration", time.Since(e.started)),
	}
	if err != nil {
		attrs = append(attrs, slog.String("err", sentence(err)))
	}
	l.LogAttrs(context.Background(), slog.LevelInfo, "connection ended", attrs...)
}
