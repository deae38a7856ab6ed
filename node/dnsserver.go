package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"ginnel/internal/meshaddr"
	"ginnel/internal/resolver"
	"ginnel/internal/share"
)

// The DNS server on this machine answers as the node itself resolves names: from the map for names
// of the mesh, from the map's servers for their domains, and otherwise as dialer.lookup does.

const (
	dnsUDPSize  = 1232 // bytes of UDP payload that is not fragmented on common paths (DNS flag day 2020)
	dnsMeshTTL  = 60   // seconds for names of the mesh, which change as nodes come, go and are renamed
	dnsHostTTL  = 10   // seconds for answers of the host's resolver, which does not report a TTL
	resolvConf  = "/etc/resolv.conf"
	dnsIdleRead = 10 * time.Minute // read timeout of the UDP socket; it only makes the server loop

	// dnsPatience bounds the time for an answer. It is long enough to try a second server after the
	// first; stub resolvers repeat their query after 5 s.
	dnsPatience = resolver.Timeout + time.Second
)

// nameServer is a dns.Handler.
type nameServer struct {
	log    *slog.Logger
	life   *lifetime
	plane  *dataPlane
	dialer *dialer
	member *membership    // nil without a coordination server
	addr   netip.AddrPort // of both sockets
	limits *dnsLimits
}

// openDNS opens the UDP and the TCP socket of the DNS server, both on one port.
func (g *ingress) openDNS(addr string) error {
	pc, ln, err := listenDNS(addr)
	if err != nil {
		return err
	}
	s := &nameServer{log: g.log, life: g.life, plane: g.plane, dialer: g.dialer, member: g.member,
		addr: ln.Addr().(*net.TCPAddr).AddrPort(), limits: newDNSLimits()}
	udp := &dns.Server{PacketConn: pc, Handler: s, UDPSize: dnsUDPSize, ReadTimeout: dnsIdleRead}
	tcp := &dns.Server{Listener: &dnsListener{ln, s.limits, servesClient}, Handler: s}
	g.entries = append(g.entries,
		entry{kind: entryDNS, closer: dnsSocket{udp, pc}, addr: pc.LocalAddr(), serve: udp.ActivateAndServe},
		entry{kind: entryDNS, closer: dnsSocket{tcp, ln}, addr: ln.Addr(), serve: tcp.ActivateAndServe})
	if !s.addr.Addr().Unmap().IsLoopback() {
		g.log.Warn("DNS server can be reached from other machines; it answers private addresses only", "listen", s.addr)
	}
	g.log.Info("DNS server listening", "listen", ln.Addr())
	return nil
}

// listenDNS opens both sockets. It makes several attempts, because a port that is free for UDP may
// be in use for TCP.
func listenDNS(addr string) (pc net.PacketConn, ln net.Listener, err error) {
	const attempts = 8
	for range attempts {
		if pc, err = net.ListenPacket("udp", addr); err != nil {
			return nil, nil, err
		}
		if ln, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, ln, nil
		}
		pc.Close()
		if _, port, _ := net.SplitHostPort(addr); port != "0" {
			break
		}
	}
	return nil, nil, err
}

// dnsSocket closes the server of one socket.
type dnsSocket struct {
	srv    *dns.Server
	socket interface{ Close() error }
}

// Close does not wait for handlers; serve does.
func (s dnsSocket) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.srv.ShutdownContext(ctx) // fails for a server that was not started
	return s.socket.Close()
}

// ServeDNS implements dns.Handler.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	size := dns.MaxMsgSize
	var client netip.Addr
	switch a := w.RemoteAddr().(type) {
	case *net.TCPAddr:
		client = a.AddrPort().Addr()
	case *net.UDPAddr:
		client = a.AddrPort().Addr()
		if !servesClient(client) {
			return
		}
		size = dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), dnsUDPSize)
		}
	}
	r := s.respond(share.SourceOf(client), q)
	r.Truncate(size)
	if err := w.WriteMsg(r); err != nil {
		s.log.Debug("answering a DNS query", "to", w.RemoteAddr(), "err", err)
	}
}

// respond returns the response to a query. src is the client, as far as limits tell clients apart.
func (s *nameServer) respond(src netip.Prefix, q *dns.Msg) *dns.Msg {
	r := new(dns.Msg).SetReply(q)
	r.RecursionAvailable = true
	opt := q.IsEdns0()
	var why error
	switch question := q.Question[0]; {
	case q.Opcode != dns.OpcodeQuery:
		r.Rcode = dns.RcodeNotImplemented
	case opt != nil && opt.Version() != 0:
		r.Rcode = dns.RcodeBadVers
	case question.Qclass != dns.ClassINET, question.Qtype == dns.TypeAXFR, question.Qtype == dns.TypeIXFR:
		r.Rcode = dns.RcodeRefused
	default:
		why = s.answer(src, q, r)
	}
	if opt == nil {
		return r
	}
	r.SetEdns0(dnsUDPSize, opt.Do())
	if why != nil { // an extended DNS error (RFC 8914), which dig shows
		e := &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeOther, ExtraText: why.Error()}
		own := r.IsEdns0()
		own.Option = append(own.Option, e)
	}
	return r
}

// errTooManyQuestions refuses a client that waits for too many answers already.
var errTooManyQuestions = errors.New("too many questions are waiting for an answer")

// answer fills in the response r to q. The error tells the client why there is no answer. Only
// queries that wait for another server count against the limits.
func (s *nameServer) answer(src netip.Prefix, q, r *dns.Msg) error {
	m := s.member
	joined := m == nil || m.hasJoined()
	if joined {
		if known, err := s.answerFromMap(r); known {
			return err
		}
	}
	if !s.limits.questions.Take(src, 1) {
		return s.failed(r, errTooManyQuestions)
	}
	defer s.limits.questions.Give(src, 1)
	ctx, cancel := s.life.withTimeout(dnsPatience)
	defer cancel()
	if !joined {
		if err := m.await(ctx); err != nil {
			return s.failed(r, err)
		}
		if known, err := s.answerFromMap(r); known {
			return err
		}
	}
	return s.answerByOthers(ctx, q, r)
}

// answerByOthers answers as dialer.lookup resolves: by the map's servers or by the host.
func (s *nameServer) answerByOthers(ctx context.Context, q, r *dns.Msg) error {
	asked, m := q.Question[0], s.plane.netmap.Load()
	name := hostName(asked.Name)
	servers, routed := m.DNS.route(name, m.Domain)
	if !routed {
		servers = m.DNS.Servers
	}
	isLocal := inDomain(name, "localhost")
	if len(servers) == 0 && !isLocal {
		if err := s.dialer.mayLeave(netip.Addr{}); err != nil {
			return s.failed(r, err)
		}
		if s.isHostsResolver() {
			return s.failed(r, errOwnResolver)
		}
	}
	isAddress := asked.Qtype == dns.TypeA || asked.Qtype == dns.TypeAAAA
	isShort := !strings.Contains(name, ".") // such a name is looked up in the search domains
	switch {
	case isLocal && !isAddress:
		return nil
	case len(servers) > 0 && !isLocal && !(isAddress && isShort):
		return s.forward(ctx, q, r, servers)
	case isAddress:
		return s.answerByLookup(ctx, r)
	}
	return s.answerFromHost(ctx, r)
}

// errOwnResolver refuses a query that the host would send back to this server.
var errOwnResolver = errors.New("the host's resolver is this server, and the network has none for other names")

// isHostsResolver reports whether /etc/resolv.conf names this server, so that asking the host's
// resolver would loop.
func (s *nameServer) isHostsResolver() bool {
	conf, err := dns.ClientConfigFromFile(resolvConf)
	return err == nil && leadsTo(conf.Servers, s.addr)
}

// leadsTo reports whether own is one of the servers of a resolv.conf, which are asked on port 53.
func leadsTo(servers []string, own netip.AddrPort) bool {
	isOwn := func(server string) bool { return reaches(server, own.Addr().Unmap()) }
	return own.Port() == dnsPort && slices.ContainsFunc(servers, isOwn)
}

// failed sets the response code that an error of a lookup stands for, and returns the error.
func (s *nameServer) failed(r *dns.Msg, err error) error {
	r.Rcode = dns.RcodeServerFailure
	switch dnsErr, ok := errors.AsType[*net.DNSError](err); {
	case errors.Is(err, fs.ErrPermission):
		r.Rcode = dns.RcodeRefused
	case ok && dnsErr.IsNotFound:
		r.Rcode = dns.RcodeNameError
	}
	return err
}

// answerFromMap answers queries for names of the mesh and for names of its addresses, including
// that there is no such name. known is false if the map cannot tell.
func (s *nameServer) answerFromMap(r *dns.Msg) (known bool, err error) {
	q := r.Question[0]
	name := hostName(q.Name)
	m, routes := s.plane.netmap.Load(), s.plane.routes.Load()
	if a, ok := reverseAddr(name); ok {
		return s.answerReverse(r, a), nil
	}
	addrs, known, err := routes.lookup(name)
	switch {
	case err != nil:
		return true, s.failed(r, err)
	case known:
		r.Authoritative = true
		addAddresses(r, addrs, dnsMeshTTL)
		return true, nil
	}
	if servers, routed := m.DNS.route(name, m.Domain); !routed || len(servers) > 0 {
		return false, nil
	}
	r.Authoritative = true
	if name != m.Domain && !routes.hasBelow(name) { // otherwise it exists without records (RFC 8020)
		r.Rcode = dns.RcodeNameError
	}
	return true, nil
}

// hasBelow reports whether a name of the mesh is below name.
func (r *routes) hasBelow(name string) bool {
	for known := range r.names {
		if strings.HasSuffix(known, "."+name) {
			return true
		}
	}
	return false
}

// answerReverse answers a query for the name of an address. known is false outside the mesh.
func (s *nameServer) answerReverse(r *dns.Msg, a netip.Addr) (known bool) {
	m, routes := s.plane.netmap.Load(), s.plane.routes.Load()
	name := m.Name
	if p := routes.hosts[a]; p != nil {
		name = p.Name
	} else if !routes.isOwn(a) {
		if !meshaddr.Contains(a) {
			return false
		}
		r.Authoritative, r.Rcode = true, dns.RcodeNameError
		return true
	}
	r.Authoritative = true
	if name == "" {
		r.Rcode = dns.RcodeNameError
		return true
	}
	if name = hostName(name); m.Domain != "" && !strings.Contains(name, ".") {
		name += "." + m.Domain
	}
	if q := r.Question[0]; q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY {
		r.Answer = append(r.Answer, &dns.PTR{Hdr: header(q.Name, dns.TypePTR, dnsMeshTTL), Ptr: dns.Fqdn(name)})
	}
	return true
}

// reverseAddr parses a name below in-addr.arpa or ip6.arpa that stands for one address.
func reverseAddr(name string) (a netip.Addr, ok bool) {
	labels := strings.Split(name, ".")
	slices.Reverse(labels)
	switch {
	case len(labels) == 6 && strings.HasSuffix(name, ".in-addr.arpa"):
		a, err := netip.ParseAddr(strings.Join(labels[2:], "."))
		return a, err == nil
	case len(labels) == 34 && strings.HasSuffix(name, ".ip6.arpa"):
		digits := strings.Join(labels[2:], "")
		if len(digits) != 32 {
			return a, false
		}
		var text []string
		for digits != "" {
			text, digits = append(text, digits[:4]), digits[4:]
		}
		a, err := netip.ParseAddr(strings.Join(text, ":"))
		return a, err == nil
	}
	return a, false
}

func header(name string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// addAddresses adds the addresses of the question's type. Without any, the response says that the
// name exists and has no such record (NODATA).
func addAddresses(r *dns.Msg, addrs []netip.Addr, ttl uint32) {
	q := r.Question[0]
	for _, a := range addrs {
		switch a = a.Unmap(); {
		case a.Is4() && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY):
			r.Answer = append(r.Answer, &dns.A{Hdr: header(q.Name, dns.TypeA, ttl), A: a.AsSlice()})
		case a.Is6() && (q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypeANY):
			h := header(q.Name, dns.TypeAAAA, ttl)
			r.Answer = append(r.Answer, &dns.AAAA{Hdr: h, AAAA: a.WithZone("").AsSlice()})
		}
	}
}

// answerByLookup answers with the addresses that dialer.lookup finds. A name without a dot is
// looked up in the search domains.
func (s *nameServer) answerByLookup(ctx context.Context, r *dns.Msg) error {
	name := r.Question[0].Name
	if short := strings.TrimSuffix(name, "."); !strings.Contains(short, ".") {
		name = short
	}
	addrs, err := s.dialer.lookup(ctx, name)
	if err != nil {
		return s.failed(r, fmt.Errorf("looking up %s: %w", name, err))
	}
	addAddresses(r, addrs, dnsHostTTL)
	return nil
}
