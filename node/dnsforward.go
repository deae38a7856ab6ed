package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// Questions that the local DNS server asks of others: of the map's servers as they are, and of the
// host's resolver in those types that package net can ask for.

// dnsServerPatience is how long one server may take before the next is asked.
const dnsServerPatience = 2 * time.Second

// forward asks the servers in their order, by way of the mesh if they are in it, and gives their
// answer back.
func (s *nameServer) forward(ctx context.Context, r *dns.Msg, servers []netip.AddrPort, wantsDNSSEC bool) error {
	q := new(dns.Msg)
	q.Id, q.RecursionDesired, q.Question = dns.Id(), true, r.Question
	q.SetEdns0(dnsUDPSize, wantsDNSSEC)
	var errs []error
	for _, server := range servers {
		answer, err := s.ask(ctx, server, q)
		if err != nil {
			errs = append(errs, fmt.Errorf("asking %v: %w", server, err))
			continue
		}
		r.Rcode, r.Answer, r.Ns, r.Extra = answer.Rcode, answer.Answer, answer.Ns, withoutOPT(answer.Extra)
		return nil
	}
	return s.failed(r, errors.Join(errs...))
}

// withoutOPT leaves out what is between the server and us.
func withoutOPT(records []dns.RR) (kept []dns.RR) {
	for _, rr := range records {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	return kept
}

// ask asks one server, over TCP if the answer does not fit in a datagram. A server that cannot
// answer is an error.
func (s *nameServer) ask(ctx context.Context, server netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsServerPatience)
	defer cancel()
	answer, err := s.exchange(ctx, "udp", server, q)
	if err == nil && answer.Truncated {
		answer, err = s.exchange(ctx, "tcp", server, q)
	}
	if err != nil {
		return nil, err
	}
	switch answer.Rcode {
	case dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented:
		return nil, errors.New(dns.RcodeToString[answer.Rcode])
	}
	return answer, nil
}

// exchange sends a question and waits for the answer to it.
func (s *nameServer) exchange(
	ctx context.Context, network string, server netip.AddrPort, q *dns.Msg,
) (*dns.Msg, error) {
	c, err := s.n.dialAddr(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	packed, err := q.Pack()
	if err != nil {
		return nil, err
	}
	read := readDatagram
	if network == "tcp" {
		packed = append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)
		read = readMessage
	}
	if _, err := c.Write(packed); err != nil {
		return nil, err
	}
	for {
		b, err := read(c)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		answer := new(dns.Msg)
		if answer.Unpack(b) == nil && answersQuestion(answer, q) {
			return answer, nil
		}
	}
}

// answersQuestion reports whether a message is the answer to q; others may come late, or from
// somebody who guesses.
func answersQuestion(answer, q *dns.Msg) bool {
	if !answer.Response || answer.Id != q.Id || len(answer.Question) != 1 {
		return false
	}
	got, want := answer.Question[0], q.Question[0]
	return hostName(got.Name) == hostName(want.Name) && got.Qtype == want.Qtype && got.Qclass == want.Qclass
}

func readDatagram(c net.Conn) ([]byte, error) {
	b := make([]byte, dns.MaxMsgSize)
	n, err := c.Read(b)
	return b[:n], err
}

// readMessage reads one message of a stream (RFC 1035, section 4.2.2).
func readMessage(c net.Conn) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(c, b)
	return b, err
}

// answerFromHost asks the host's resolver for other records than addresses.
func (s *nameServer) answerFromHost(ctx context.Context, r *dns.Msg) error {
	q := r.Question[0]
	h := header(q.Name, q.Qtype, dnsHostTTL)
	var records []dns.RR
	var err error
	switch q.Qtype {
	case dns.TypeTXT:
		var texts []string
		texts, err = net.DefaultResolver.LookupTXT(ctx, q.Name)
		for _, text := range texts {
			records = append(records, &dns.TXT{Hdr: h, Txt: characterStrings(text)})
		}
	case dns.TypeMX:
		var mxs []*net.MX
		mxs, err = net.DefaultResolver.LookupMX(ctx, q.Name)
		for _, mx := range mxs {
			records = append(records, &dns.MX{Hdr: h, Preference: mx.Pref, Mx: dns.Fqdn(mx.Host)})
		}
	case dns.TypeSRV:
		var srvs []*net.SRV
		_, srvs, err = net.DefaultResolver.LookupSRV(ctx, "", "", q.Name)
		for _, v := range srvs {
			records = append(records,
				&dns.SRV{Hdr: h, Priority: v.Priority, Weight: v.Weight, Port: v.Port, Target: dns.Fqdn(v.Target)})
		}
	case dns.TypeNS:
		var nss []*net.NS
		nss, err = net.DefaultResolver.LookupNS(ctx, q.Name)
		for _, ns := range nss {
			records = append(records, &dns.NS{Hdr: h, Ns: dns.Fqdn(ns.Host)})
		}
	case dns.TypePTR:
		a, ok := reverseAddr(hostName(q.Name))
		if !ok {
			r.Rcode = dns.RcodeNameError
			return nil
		}
		var names []string
		names, err = net.DefaultResolver.LookupAddr(ctx, a.String())
		for _, name := range names {
			records = append(records, &dns.PTR{Hdr: h, Ptr: dns.Fqdn(name)})
		}
	default:
		r.Rcode = dns.RcodeNotImplemented
		return fmt.Errorf("the host's resolver cannot be asked for %s", dns.TypeToString[q.Qtype])
	}
	if err != nil {
		return s.failed(r, fmt.Errorf("asking the host's resolver: %w", err))
	}
	r.Answer = records
	return nil
}

// characterStrings cuts a text of TXT into pieces of 255 bytes (RFC 1035, section 3.3).
func characterStrings(text string) (pieces []string) {
	const most = 255
	for len(text) > most {
		pieces, text = append(pieces, text[:most]), text[most:]
	}
	return append(pieces, text)
}
