package node

import (
	"context"
	"fmt"
	"net"

	"github.com/miekg/dns"
)

// forward sends q to the servers in their order, through the mesh if they are in it, and copies the
// answer into r.
func (s *nameServer) forward(ctx context.Context, q, r *dns.Msg, servers []Nameserver) error {
	query, err := forwarded(q).Pack()
	if err != nil {
		return s.failed(r, err)
	}
	b, err := s.dialer.exchange(ctx, query, servers)
	if err != nil {
		return s.failed(r, err)
	}
	if err := takeAnswer(r, b); err != nil {
		return s.failed(r, err)
	}
	return nil
}

// forwarded returns q with the header and the EDNS options of this server.
func forwarded(q *dns.Msg) *dns.Msg {
	out := new(dns.Msg)
	out.RecursionDesired, out.Question = true, q.Question
	opt := q.IsEdns0()
	return out.SetEdns0(dnsUDPSize, opt != nil && opt.Do())
}

// takeAnswer copies the response of another server into r.
func takeAnswer(r *dns.Msg, b []byte) error {
	answer := new(dns.Msg)
	if err := answer.Unpack(b); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	r.Rcode, r.Answer, r.Ns, r.Extra = answer.Rcode, answer.Answer, answer.Ns, withoutOPT(answer.Extra)
	return nil
}

// withoutOPT leaves out the OPT record, which concerns one hop only (RFC 6891, section 6.1.1).
func withoutOPT(records []dns.RR) (kept []dns.RR) {
	for _, rr := range records {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	return kept
}

// answerFromHost asks the host's resolver for records other than addresses, as far as package net
// can.
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

// characterStrings cuts the text of a TXT record into <character-string>s of up to 255 bytes (RFC
// 1035, section 3.3).
func characterStrings(text string) (pieces []string) {
	const most = 255
	for len(text) > most {
		pieces, text = append(pieces, text[:most]), text[most:]
	}
	return append(pieces, text)
}
