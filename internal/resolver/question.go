package resolver

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// maxDatagram is the size of answer that we accept by UDP, in bytes. Larger ones may be fragmented
// on the path (DNS flag day 2020).
const maxDatagram = 1232

// state is the state of a question at the server that is being asked.
type state int

const (
	open      state = iota
	truncated       // the answer did not fit into a datagram
	failed          // the server cannot answer it
	decided         // answered, so no other server is asked
)

// question is one question of a lookup.
type question struct {
	dnsmessage.Question
	query   []byte // the caller's query, for Exchange; nil: the addresses are wanted
	answer  []byte // to query, once decided
	id      uint16
	state   state
	addrs   []netip.Addr
	missing bool  // the name does not exist
	err     error // of a question that failed
}

var (
	errRefused      = errors.New("query refused")
	errServerFailed = errors.New("server failure")
	errLame         = errors.New("not authoritative, and does not resolve recursively")
	errMalformed    = errors.New("malformed answer")
	errTruncated    = errors.New("answer truncated, although the transport has no size limit")
)

// pack returns the query. With EDNS the answer may have maxDatagram bytes, otherwise 512.
func (q *question) pack(option edns) ([]byte, error) {
	if q.query != nil {
		msg := slices.Clone(q.query)
		binary.BigEndian.PutUint16(msg, q.id)
		return msg, nil
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.id, RecursionDesired: true},
		Questions: []dnsmessage.Question{q.Question},
	}
	if option == ednsOn {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(maxDatagram, dnsmessage.RCodeSuccess, false); err != nil {
			return nil, err
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	return m.Pack()
}

// edns says whether a query has the OPT record of EDNS (RFC 6891).
type edns bool

const (
	ednsOn  edns = true
	ednsOff edns = false
)

// parse parses the header and the question section of msg. It returns false if msg does not answer
// q, because then it may be forged.
func (q *question) parse(msg []byte) (p dnsmessage.Parser, h dnsmessage.Header, ok bool) {
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != q.id {
		return p, h, false
	}
	asked, err := p.Question()
	if errors.Is(err, dnsmessage.ErrSectionDone) && mayLackEDNS(h.RCode) {
		return p, h, true // a server without EDNS may leave out the question
	}
	if err != nil || asked.Type != q.Type || asked.Class != q.Class ||
		!strings.EqualFold(asked.Name.String(), q.Name.String()) {
		return p, h, false
	}
	return p, h, p.SkipAllQuestions() == nil
}

// settle sets the state of q by msg, its answer. p is after the question section.
func (q *question) settle(msg []byte, p *dnsmessage.Parser, h dnsmessage.Header) {
	switch {
	case h.Truncated:
		q.state = truncated
	case h.RCode == dnsmessage.RCodeNameError:
		q.state, q.missing = decided, true
	case h.RCode == dnsmessage.RCodeRefused:
		q.fail(errRefused)
	case h.RCode != dnsmessage.RCodeSuccess:
		q.fail(errServerFailed)
	default:
		q.read(p, h)
	}
	if q.query != nil && q.state == decided {
		q.answer = slices.Clone(msg)
	}
}

func (q *question) fail(err error) { q.state, q.err, q.addrs = failed, err, nil }

// read collects the addresses in an answer. If the name is an alias, a CNAME record precedes them.
func (q *question) read(p *dnsmessage.Parser, h dnsmessage.Header) {
	records := 0
	for {
		rh, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			q.fail(errMalformed)
			return
		}
		records++
		if err := q.readRecord(p, rh); err != nil {
			q.fail(errMalformed)
			return
		}
	}
	if records == 0 && !h.Authoritative && !h.RecursionAvailable {
		q.fail(errLame)
		return
	}
	q.state = decided
}

func (q *question) readRecord(p *dnsmessage.Parser, h dnsmessage.ResourceHeader) error {
	if h.Type != q.Type || h.Class != q.Class || q.query != nil {
		return p.SkipAnswer()
	}
	if h.Type == dnsmessage.TypeA {
		r, err := p.AResource()
		q.addrs = append(q.addrs, netip.AddrFrom4(r.A))
		return err
	}
	r, err := p.AAAAResource()
	q.addrs = append(q.addrs, netip.AddrFrom16(r.AAAA).Unmap())
	return err
}
