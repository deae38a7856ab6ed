package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Patience is how long a server is waited for: the time of resolv.conf(5). Within that time the
// questions are sent again, because datagrams get lost and the next server may know other names. A
// caller who has less time never finds out that the server is dead.
const Patience = 5 * time.Second

const (
	probeTime  = time.Second // of a server that has not answered before
	firstPause = time.Second // before the questions are sent again; then twice that, and so on

	// resolutionDelay is how long the addresses of one family wait for those of the other (RFC
	// 8305, section 3), or twice the time that the first took, if that is longer: what comes over
	// TCP takes three round trips.
	resolutionDelay = 50 * time.Millisecond
)

// timeoutError is net.Error.
type timeoutError string

func (e timeoutError) Error() string { return string(e) }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

const errSilent = timeoutError("it has not answered")

// ask puts the open questions to one server: by HTTP if it has a URL; otherwise in datagrams, and
// over TCP what does not fit into them, over one connection each. The error is why the server was
// not reached.
func (r *Resolver) ask(ctx context.Context, t turn, l *lookup) error {
	l.begin()
	ask := r.askUDP
	if t.server.URL != "" {
		ask = r.askHTTP
	}
	err := ask(ctx, t, l)
	switch {
	case err == nil:
		r.outages.end(t.server)
	case ctx.Err() == nil && isTimeout(err):
		r.outages.begin(t.server, time.Now())
	}
	if err == nil && l.wantsTCP {
		err = r.askTCP(ctx, t, l)
	}
	return err
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &e) && e.Timeout()
}

// connect dials, and has the connection closed when ctx ends.
func (r *Resolver) connect(ctx context.Context, network string, t turn) (c net.Conn, release func(), err error) {
	c, err = r.Dial(ctx, network, t.server.Addr)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	return c, func() { stop(); c.Close() }, nil
}

// askUDP returns nil once the server has answered something.
func (r *Resolver) askUDP(ctx context.Context, t turn, l *lookup) error {
	ctx, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	c, release, err := r.connect(ctx, "udp", t)
	if err != nil {
		return err
	}
	defer release()
	a := &asking{c: c, l: l, begun: time.Now(), buf: make([]byte, 4<<10)}
	for pause := firstPause; ; pause *= 2 {
		err := a.send()
		if err == nil {
			err = a.receive(time.Now().Add(pause))
		}
		switch {
		case err == nil, ctx.Err() != nil && a.answers > 0:
			return nil
		case ctx.Err() != nil: // so it is closed
			return errSilent
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case r.outages.since(t.server, a.begun): // somebody else has waited long enough
			return errSilent
		}
	}
}

// asking is a conversation with one server in datagrams.
type asking struct {
	c       net.Conn
	l       *lookup
	begun   time.Time
	answers int
	enough  time.Time // when to go on with the addresses of one family; zero: there are none yet
	buf     []byte
}

// send asks what is open.
func (a *asking) send() (err error) {
	with := ednsOn
	if a.l.noEDNS {
		with = ednsOff
	}
	a.l.each(open, func(q *question) {
		msg, packErr := q.pack(with)
		if packErr == nil {
			_, packErr = a.c.Write(msg)
		}
		err = errors.Join(err, packErr)
	})
	return err
}

// receive returns nil when nothing more needs to come.
func (a *asking) receive(until time.Time) error {
	for a.l.count(open) > 0 && !a.l.isMissing() {
		deadline := until
		if !a.enough.IsZero() && a.enough.Before(until) {
			deadline = a.enough
		}
		a.c.SetReadDeadline(deadline)
		n, err := a.c.Read(a.buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && deadline == a.enough:
			return nil
		case err != nil:
			return err
		}
		if err := a.take(a.buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// take settles the question that msg answers, if there is one.
func (a *asking) take(msg []byte) error {
	again := false
	a.l.each(open, func(q *question) {
		p, h, ok := q.parse(msg)
		if !ok {
			return
		}
		a.answers++
		if isConfused(h.RCode) && !a.l.noEDNS && q.query == nil {
			again = true
			return
		}
		q.settle(msg, &p, h)
		a.l.wantsTCP = a.l.wantsTCP || q.state == truncated
	})
	if a.l.hasAddrs() && a.enough.IsZero() {
		a.enough = time.Now().Add(max(resolutionDelay, 2*time.Since(a.begun)))
	}
	if again {
		a.l.noEDNS = true
		a.l.renewIDs()
		return a.send()
	}
	return nil
}

// isConfused reports whether a server may not understand EDNS (RFC 6891, section 7).
func isConfused(code dnsmessage.RCode) bool {
	return code == dnsmessage.RCodeFormatError || code == dnsmessage.RCodeNotImplemented
}

// askTCP asks what was truncated.
func (r *Resolver) askTCP(ctx context.Context, t turn, l *lookup) error {
	limit := t.patience
	if l.hasAddrs() {
		limit = min(limit, firstPause) // the other family's are enough
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, release, err := r.connect(ctx, "tcp", t)
	if err == nil {
		defer release()
		err = converse(c, l)
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return err
}

// converse asks over TCP, where each message has its length before it (RFC 1035, section 4.2.2).
func converse(c net.Conn, l *lookup) (err error) {
	var out []byte
	l.each(truncated, func(q *question) {
		msg, packErr := q.pack(ednsOff)
		err = errors.Join(err, packErr)
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(msg))), msg...)
	})
	if err != nil {
		return err
	}
	if _, err := c.Write(out); err != nil {
		return err
	}
	for l.count(truncated) > 0 {
		msg, err := readMessage(c)
		if err != nil {
			return err
		}
		l.each(truncated, func(q *question) { q.take(msg) })
	}
	return nil
}

func readMessage(c net.Conn) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(c, msg)
	return msg, err
}
