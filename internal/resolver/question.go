package resolver

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// maxDatagram is what a server may answer in a datagram: more may be fragmented on its way (DNS
// flag day 2020).
const maxDatagram = 1232

// state is how far a question has come with the server that is being asked.
type state int

const (
	open      state = iota
	truncated       // the answer did not fit into a datagram
	failed          // the server cannot tell
	decided         // answered for good
)

// question is a question of one type.
type question struct {
	dnsmessage.Question
	query   []byte // asks it as it is, and is answered likewise; nil: addresses are asked for
	answer  []byte // to query, once it is decided
	id      uint16
	state   state
	addrs   []netip.Addr
	missing bool  // the name does not exist
	err     error // of a question that failed
}

var (
	errRefused = errors.New("it refuses to answer")
	errServer  = errors.New("it has failed to find out")
	errLame    = errors.New("it does not know and asks nobody else")
	errAnswer  = errors.New("its answer makes no sense")
	errLarge   = errors.New("its answer is cut short where there is room for all of it")
)

// pack makes the message that asks it. With EDNS the answer may have maxDatagram bytes, otherwise
// 512.
func (q *question) pack(withEDNS edns) ([]byte, error) {
	if q.query != nil {
		msg := slices.Clone(q.query)
		binary.BigEndian.PutUint16(msg, q.id)
		return msg, nil
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.id, RecursionDesired: true},
		Questions: []dnsmessage.Question{q.Question},
	}
	if withEDNS == ednsOn {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(maxDatagram, dnsmessage.RCodeSuccess, false); err != nil {
			return nil, err
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	return m.Pack()
}

// edns says whether a question has the OPT record of EDNS (RFC 6891).
type edns bool

const (
	ednsOn  edns = true
	ednsOff edns = false
)

// parse begins to read msg if it is the answer to q; anything else may be a forgery.
func (q *question) parse(msg []byte) (p dnsmessage.Parser, h dnsmessage.Header, ok bool) {
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != q.id {
		return p, h, false
	}
	asked, err := p.Question()
	if errors.Is(err, dnsmessage.ErrSectionDone) && isConfused(h.RCode) {
		return p, h, true // the server has not even read it
	}
	if err != nil || asked.Type != q.Type || asked.Class != q.Class ||
		!strings.EqualFold(asked.Name.String(), q.Name.String()) {
		return p, h, false
	}
	return p, h, p.SkipAllQuestions() == nil
}

// settle takes msg as the answer to q; p has read its questions.
func (q *question) settle(msg []byte, p *dnsmessage.Parser, h dnsmessage.Header) {
	switch {
	case h.Truncated:
		q.state = truncated
	case h.RCode == dnsmessage.RCodeNameError:
		q.state, q.missing = decided, true
	case h.RCode == dnsmessage.RCodeRefused:
		q.fail(errRefused)
	case h.RCode != dnsmessage.RCodeSuccess:
		q.fail(errServer)
	default:
		q.read(p, h)
	}
	if q.query != nil && q.state == decided {
		q.answer = slices.Clone(msg)
	}
}

func (q *question) fail(err error) { q.state, q.err, q.addrs = failed, err, nil }

// read takes the addresses of an answer. Those of an alias stand in the same answer, after the
// alias.
func (q *question) read(p *dnsmessage.Parser, h dnsmessage.Header) {
	records := 0
	for {
		rh, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			q.fail(errAnswer)
			return
		}
		records++
		if err := q.readRecord(p, rh); err != nil {
			q.fail(errAnswer)
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
