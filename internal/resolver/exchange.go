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

// Timeout is how long a server is waited for: the default of resolv.conf(5). Within that time the
// questions are sent again to the same server, because a datagram may be lost, and the next server
// may know other names. If a caller has less time, the server is not marked as down.
const Timeout = 5 * time.Second

const (
	probeTimeout = time.Second // for a server that did not answer before
	firstRetry   = time.Second // before the questions are sent again; doubled after each retry

	// resolutionDelay is how long the addresses of one family wait for those of the other (RFC 8305,
	// section 3). The wait is twice the time of the first answer if that is longer, because an answer
	// over TCP takes three round trips.
	resolutionDelay = 50 * time.Millisecond
)

// timeoutError is a net.Error that is a timeout.
type timeoutError string

func (e timeoutError) Error() string { return string(e) }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

const errNoAnswer = timeoutError("no answer")

// ask asks one server the open questions: by HTTP if it has a URL, otherwise by UDP, and again by
// TCP those whose answers were truncated. The error says why the server was not reached.
func (r *Resolver) ask(ctx context.Context, t attempt, l *lookup) error {
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

// connect dials a server. The connection is closed by release, and when ctx ends.
func (r *Resolver) connect(ctx context.Context, network string, t attempt) (c net.Conn, release func(), err error) {
	c, err = r.Dial(ctx, network, t.server.Addr)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	return c, func() { stop(); c.Close() }, nil
}

// askUDP asks the open questions by UDP. It returns nil if the server has answered any of them.
func (r *Resolver) askUDP(ctx context.Context, t attempt, l *lookup) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	c, release, err := r.connect(ctx, "udp", t)
	if err != nil {
		return err
	}
	defer release()
	a := &udpExchange{c: c, l: l, begun: time.Now(), buf: make([]byte, 4<<10)}
	for pause := firstRetry; ; pause *= 2 {
		err := a.send()
		if err == nil {
			err = a.receive(time.Now().Add(pause))
		}
		switch {
		case err == nil, ctx.Err() != nil && a.answers > 0:
			return nil
		case ctx.Err() != nil: // which has closed c
			return errNoAnswer
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case r.outages.since(t.server, a.begun): // another lookup has waited for Timeout
			return errNoAnswer
		}
	}
}

// udpExchange is the exchange of datagrams with one server in one lookup.
type udpExchange struct {
	c       net.Conn
	l       *lookup
	begun   time.Time
	answers int
	buf     []byte

	partialUntil time.Time // when the wait for the second address family ends; zero: no addresses yet
}

// send sends the open questions.
func (a *udpExchange) send() (err error) {
	option := ednsOn
	if a.l.noEDNS {
		option = ednsOff
	}
	a.l.each(open, func(q *question) {
		msg, packErr := q.pack(option)
		if packErr == nil {
			_, packErr = a.c.Write(msg)
		}
		err = errors.Join(err, packErr)
	})
	return err
}

// receive reads answers. It returns nil when the lookup needs no further answer of this server, and
// os.ErrDeadlineExceeded at the time until.
func (a *udpExchange) receive(until time.Time) error {
	for a.l.count(open) > 0 && !a.l.isMissing() {
		deadline := until
		if !a.partialUntil.IsZero() && a.partialUntil.Before(until) {
			deadline = a.partialUntil
		}
		a.c.SetReadDeadline(deadline)
		n, err := a.c.Read(a.buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && deadline == a.partialUntil:
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

// take settles the question that msg answers. It ignores a msg that answers none.
func (a *udpExchange) take(msg []byte) error {
	again := false
	a.l.each(open, func(q *question) {
		p, h, ok := q.parse(msg)
		if !ok {
			return
		}
		a.answers++
		if mayLackEDNS(h.RCode) && !a.l.noEDNS && q.query == nil {
			again = true
			return
		}
		q.settle(msg, &p, h)
		a.l.wantsTCP = a.l.wantsTCP || q.state == truncated
	})
	if a.l.hasAddrs() && a.partialUntil.IsZero() {
		a.partialUntil = time.Now().Add(max(resolutionDelay, 2*time.Since(a.begun)))
	}
	if again {
		a.l.noEDNS = true
		a.l.renewIDs()
		return a.send()
	}
	return nil
}

// mayLackEDNS reports whether code may come from a server without EDNS (RFC 6891, section 7).
func mayLackEDNS(code dnsmessage.RCode) bool {
	return code == dnsmessage.RCodeFormatError || code == dnsmessage.RCodeNotImplemented
}

// askTCP asks the questions whose answers were truncated.
func (r *Resolver) askTCP(ctx context.Context, t attempt, l *lookup) error {
	limit := t.timeout
	if l.hasAddrs() {
		limit = min(limit, firstRetry) // the addresses of the other family will do
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, release, err := r.connect(ctx, "tcp", t)
	if err == nil {
		defer release()
		err = exchangeTCP(c, l)
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return err
}

// exchangeTCP asks the truncated questions over c, where each message follows its length (RFC 1035,
// section 4.2.2).
func exchangeTCP(c net.Conn, l *lookup) (err error) {
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
