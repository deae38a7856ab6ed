// Package resolver is a DNS stub resolver for servers in a given order, as resolv.conf(5) has it:
// the next server is asked only if the one before has not answered, or has answered that it cannot
// tell. That a name does not exist is an answer, and final.
//
// The package knows no network and reads no file of the host: its caller connects to the servers,
// and speaks HTTP with those that are asked that way.
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

// Resolver asks servers. The zero value with Dial set is ready for use.
type Resolver struct {
	// Dial connects to a server over "udp" or "tcp".
	Dial func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)
	// Post sends a query to the URL of a server and returns its answer (RFC 8484). It is nil if no
	// server has a URL.
	Post func(ctx context.Context, url string, query []byte) ([]byte, error)

	outages outages
}

// Server is a DNS server: one that is asked by UDP and TCP at an address, or by HTTP at a URL.
type Server struct {
	Addr netip.AddrPort
	URL  string // empty: Addr counts
}

// String returns the address or the URL.
func (s Server) String() string {
	if s.URL != "" {
		return s.URL
	}
	return s.Addr.String()
}

// LookupNetIP returns the addresses of a name, IPv6 first, each family in the order of the server
// that knew it. The name is whole: no search domain is added. The error is a *net.DNSError.
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

// Exchange passes a query of one question on as it is, except for its ID, and returns the answer of
// the first server that can tell, be it that the name does not exist.
func (r *Resolver) Exchange(ctx context.Context, query []byte, servers []Server) ([]byte, error) {
	var p dnsmessage.Parser
	if _, err := p.Start(query); err != nil {
		return nil, fmt.Errorf("resolver: reading a query: %w", err)
	}
	q, err := p.Question()
	if err != nil {
		return nil, fmt.Errorf("resolver: reading a query: %w", err)
	}
	l := &lookup{name: strings.TrimSuffix(q.Name.String(), "."), questions: []question{{Question: q, query: query}}}
	if _, err := r.decide(ctx, l, servers); err != nil {
		return nil, err
	}
	return l.questions[0].answer, nil
}

// decide asks servers in their order until l is decided, and returns the last that it has asked.
func (r *Resolver) decide(ctx context.Context, l *lookup, servers []Server) (last Server, err error) {
	var failures []error
	for _, t := range r.outages.turns(servers, time.Now()) {
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

// serversFailed is the error of a name that no server has decided about.
func serversFailed(name string, failures []error) error {
	texts := make([]string, len(failures))
	timeout := len(failures) > 0
	var causes []error
	for i, err := range failures {
		texts[i] = err.Error()
		timeout = timeout && isTimeout(err)
		if _, isErrno := errors.AsType[syscall.Errno](err); !isErrno { // which would be taken for that of the destination
			causes = append(causes, err)
		}
	}
	return &net.DNSError{
		UnwrapErr:   errors.Join(causes...),
		Err:         cmp.Or(strings.Join(texts, "; "), "there is no server to ask"),
		Name:        name,
		IsTimeout:   timeout,
		IsTemporary: true,
	}
}

// lookup is one name that is asked for: its questions, such as AAAA and A, are open until a server
// has decided each.
type lookup struct {
	name      string // without the dot at the end
	questions []question
	wantsTCP  bool // the last server has more to say than a datagram holds
	noEDNS    bool // the last server does not understand EDNS
}

var errNotAName = errors.New("not a name of the DNS")

func newLookup(name string) (*lookup, error) {
	whole := strings.TrimSuffix(name, ".")
	if len(whole) > 253 { // 255 bytes on the wire (RFC 1035, section 2.3.4)
		return nil, errNotAName
	}
	for label := range strings.SplitSeq(whole, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, isForeign) {
			return nil, errNotAName
		}
	}
	n, err := dnsmessage.NewName(whole + ".")
	if err != nil {
		return nil, err
	}
	l := &lookup{name: whole}
	for _, t := range [...]dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeA} {
		l.questions = append(l.questions, question{Question: dnsmessage.Question{Name: n, Type: t, Class: dnsmessage.ClassINET}})
	}
	return l, nil
}

// isForeign reports whether no host's name has c.
func isForeign(c rune) bool { return c <= ' ' || c >= 0x7f }

// begin forgets what the server before could not decide.
func (l *lookup) begin() {
	l.wantsTCP, l.noEDNS = false, false
	for i := range l.questions {
		if q := &l.questions[i]; q.state != decided {
			*q = question{Question: q.Question, query: q.query}
		}
	}
	l.renewIDs()
}

// renewIDs makes IDs that are hard to guess, so that only the server can answer (RFC 5452, section
// 4.3). Answers to the IDs before are not taken any more.
func (l *lookup) renewIDs() {
	id := uint16(rand.Uint32())
	for i := range l.questions {
		l.questions[i].id = id + uint16(i)
	}
}

// each calls f with the questions in a state.
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

// hasAddrs reports whether there is something to connect to, whatever the other question may bring.
func (l *lookup) hasAddrs() bool {
	return slices.ContainsFunc(l.questions, func(q question) bool { return len(q.addrs) > 0 })
}

// isMissing reports whether a server has said that the name does not exist. That holds for all
// types (RFC 8020).
func (l *lookup) isMissing() bool {
	return slices.ContainsFunc(l.questions, func(q question) bool { return q.missing })
}

// isDecided reports whether no other server has to be asked.
func (l *lookup) isDecided() bool {
	return l.hasAddrs() || l.isMissing() || l.count(decided) == len(l.questions)
}

// failure is why the last server has left a question open; nil if it has left it unanswered.
func (l *lookup) failure() error {
	for _, q := range l.questions {
		if q.state == failed {
			return q.err
		}
	}
	return errSilent
}

// result is what a lookup that is decided has found out; server was the last to be asked.
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
		text = "the name has no address"
	}
	return nil, &net.DNSError{Err: text, Name: l.name, Server: server.String(), IsNotFound: true}
}
