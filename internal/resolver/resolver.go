// Package resolver is a DNS stub resolver that asks servers in a given order, as resolv.conf(5)
// describes it: the next server is asked only if the one before has not answered or has failed. The
// answer that a name does not exist is final.
//
// The package reads no configuration of the host and opens no sockets: its caller connects to the
// servers, and makes the HTTP requests to those with a URL.
package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Resolver is a stub resolver. The zero value with Dial set is ready for use.
type Resolver struct {
	// Dial connects to a server over "udp" or "tcp".
	Dial func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)
	// Post sends a query to the URL of a server and returns its answer (RFC 8484). It is nil if no
	// server has a URL.
	Post func(ctx context.Context, url string, query []byte) ([]byte, error)

	outages outages
}

// Server is a DNS server, which is asked by UDP and TCP at an address, or by HTTP at a URL.
type Server struct {
	Addr netip.AddrPort
	URL  string // if set, Addr is not used
}

// String returns the address or the URL.
func (s Server) String() string {
	if s.URL != "" {
		return s.URL
	}
	return s.Addr.String()
}

// LookupNetIP returns the addresses of a fully qualified name: IPv6 first, and within a family in
// the order of the answer. The error is a *net.DNSError.
func (r *Resolver) LookupNetIP(ctx context.Context, name string, servers []Server) ([]netip.Addr, error) {
	l, err := newLookup(name)
	if err != nil {
		return nil, &net.DNSError{Err: err.Error(), Name: name, IsNotFound: true}
	}
	server, err := r.decide(ctx, l, servers)
	if err != nil {
		return nil, err
	}
	return l.result(server)
}

// Exchange forwards a query with one question, with another ID, and returns the answer of the first
// server that does not fail. That may be that the name does not exist.
func (r *Resolver) Exchange(ctx context.Context, query []byte, servers []Server) ([]byte, error) {
	var p dnsmessage.Parser
	if _, err := p.Start(query); err != nil {
		return nil, fmt.Errorf("resolver: parsing a query: %w", err)
	}
	q, err := p.Question()
	if err != nil {
		return nil, fmt.Errorf("resolver: parsing a query: %w", err)
	}
	l := &lookup{name: strings.TrimSuffix(q.Name.String(), "."), questions: []question{{Question: q, query: query}}}
	if _, err := r.decide(ctx, l, servers); err != nil {
		return nil, err
	}
	return l.questions[0].answer, nil
}

// decide asks servers in their order until l is decided. It returns the server that it asked last.
func (r *Resolver) decide(ctx context.Context, l *lookup, servers []Server) (last Server, err error) {
	var failures []error
	for _, t := range r.outages.attempts(servers, time.Now()) {
		err := r.ask(ctx, t, l)
		if l.isDecided() {
			return t.server, nil
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			err = ctx.Err()
		}
		failures = append(failures, fmt.Errorf("%v: %w", t.server, cmp.Or(err, l.failure())))
		if ctx.Err() != nil {
			break
		}
	}
	return last, serversFailed(l.name, failures)
}

// serversFailed returns the error for a name that no server has decided. failures has one error per
// server.
func serversFailed(name string, failures []error) error {
	texts := make([]string, len(failures))
	timeout := len(failures) > 0
	var causes []error
	for i, err := range failures {
		texts[i] = err.Error()
		timeout = timeout && isTimeout(err)
		// Callers would take an errno for one of the destination.
		if _, isErrno := errors.AsType[syscall.Errno](err); !isErrno {
			causes = append(causes, err)
		}
	}
	return &net.DNSError{
		UnwrapErr:   errors.Join(causes...),
		Err:         cmp.Or(strings.Join(texts, "; "), "no DNS server configured"),
		Name:        name,
		IsTimeout:   timeout,
		IsTemporary: true,
	}
}

// lookup is the lookup of one name. It is over when all of its questions, such as AAAA and A, are
// decided, or enough of them.
type lookup struct {
	name      string // without the dot at the end
	questions []question
	wantsTCP  bool // the last server has sent a truncated answer
	noEDNS    bool // the last server does not understand EDNS
}

var errNotAName = errors.New("not a valid host name")

func newLookup(name string) (*lookup, error) {
	whole := strings.TrimSuffix(name, ".")
	if len(whole) > 253 { // 255 bytes on the wire (RFC 1035, section 2.3.4)
		return nil, errNotAName
	}
	for label := range strings.SplitSeq(whole, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notInHostName) {
			return nil, errNotAName
		}
	}
	n, err := dnsmessage.NewName(whole + ".")
	if err != nil {
		return nil, err
	}
	l := &lookup{name: whole}
	for _, t := range [...]dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeA} {
		q := dnsmessage.Question{Name: n, Type: t, Class: dnsmessage.ClassINET}
		l.questions = append(l.questions, question{Question: q})
	}
	return l, nil
}

// notInHostName reports whether c is not allowed in the name of a host.
func notInHostName(c rune) bool { return c <= ' ' || c >= 0x7f }

// begin opens the undecided questions again, for the next server.
func (l *lookup) begin() {
	l.wantsTCP, l.noEDNS = false, false
	for i := range l.questions {
		if q := &l.questions[i]; q.state != decided {
			*q = question{Question: q.Question, query: q.query}
		}
	}
	l.renewIDs()
}

// renewIDs gives the questions new random IDs, which a forger has to guess (RFC 5452, section 4.3).
// Answers with earlier IDs are ignored from now on.
func (l *lookup) renewIDs() {
	id := uint16(rand.Uint32())
	for i := range l.questions {
		l.questions[i].id = id + uint16(i)
	}
}

// each calls f for the questions in state s, and returns their number.
func (l *lookup) each(s state, f func(*question)) (n int) {
	for i := range l.questions {
		if l.questions[i].state == s {
			f(&l.questions[i])
			n++
		}
	}
	return n
}

func (l *lookup) count(s state) int { return l.each(s, func(*question) {}) }

// hasAddrs reports whether there are addresses of any family.
func (l *lookup) hasAddrs() bool {
	return slices.ContainsFunc(l.questions, func(q question) bool { return len(q.addrs) > 0 })
}

// isMissing reports whether a server has answered that the name does not exist, which is true for
// all types (RFC 8020).
func (l *lookup) isMissing() bool {
	return slices.ContainsFunc(l.questions, func(q question) bool { return q.missing })
}

// isDecided reports whether no further server has to be asked.
func (l *lookup) isDecided() bool {
	return l.hasAddrs() || l.isMissing() || l.count(decided) == len(l.questions)
}

// failure returns why the last server has not decided the lookup.
func (l *lookup) failure() error {
	for _, q := range l.questions {
		if q.state == failed {
			return q.err
		}
	}
	return errNoAnswer
}

// result returns the result of a lookup that is decided. server was asked last.
func (l *lookup) result(server Server) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, q := range l.questions {
		addrs = append(addrs, q.addrs...)
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	text := "no such name"
	if !l.isMissing() {
		text = "name has no address"
	}
	return nil, &net.DNSError{Err: text, Name: l.name, Server: server.String(), IsNotFound: true}
}
