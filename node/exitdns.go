package node

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"ginnel/control"
	"ginnel/internal/resolver"
	"ginnel/internal/share"
)

// An exit node answers the DNS queries of the peers that leave through it by asking the nameservers
// of its host, because a name may have other addresses there. Peers ask over HTTP in the tunnel
// (RFC 8484, without TLS), at the port that the host information names as that of the peer API.

const (
	pathDNSQuery    = "/dns-query"
	exitDNSTimeout  = 15 * time.Second // for a peer to send a request, and to read the answer
	exitDNSMaxIdle  = 2 * time.Minute
	exitDNSMaxBytes = 4 << 10 // of a request's header
)

// Addresses on the Internet. A peer that the policy lets send DNS queries there may ask the exit
// node.
var (
	internet4 = netip.MustParseAddrPort("1.1.1.1:53")
	internet6 = netip.MustParseAddrPort("[2606:4700:4700::1111]:53")
)

// exitDNS is the DNS server of an exit node. A nil *exitDNS serves nobody.
type exitDNS struct {
	log    *slog.Logger
	life   *lifetime
	plane  *dataPlane
	member *membership

	port   uint16
	conf   string         // file that names the host's nameservers
	own    netip.AddrPort // of this node's DNS server; invalid if there is none
	limits *dnsLimits
	names  resolver.Resolver // asks the host's nameservers
}

// openExitDNS opens the DNS server of an exit node. There is none if the host's nameservers cannot
// be read, as on Windows; peers ask other servers then.
func (g *ingress) openExitDNS() error {
	if !g.router.isExit() {
		return nil
	}
	if _, err := dns.ClientConfigFromFile(resolvConf); err != nil {
		g.log.Info("exit node answers no DNS queries of peers", "err", err)
		return nil
	}
	ln, err := g.plane.stack.Listen(netip.AddrPort{})
	if err != nil {
		return fmt.Errorf("opening the DNS server of the exit node: %w", err)
	}
	e := &exitDNS{log: g.log, life: g.life, plane: g.plane, member: g.member,
		port: ln.Addr().(*net.TCPAddr).AddrPort().Port(),
		conf: resolvConf, limits: newDNSLimits()}
	e.own, _ = netip.ParseAddrPort(g.dnsAddr())
	e.names.Dial = func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
		return g.cfg.dialHost(ctx, network, server.String())
	}
	srv := &http.Server{
		Handler:           e,
		ReadHeaderTimeout: exitDNSTimeout,
		ReadTimeout:       exitDNSTimeout,
		WriteTimeout:      dnsPatience + exitDNSTimeout,
		IdleTimeout:       exitDNSMaxIdle,
		MaxHeaderBytes:    exitDNSMaxBytes,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	serve := func() error {
		err := srv.Serve(&dnsListener{ln, e.limits, e.serves})
		if errors.Is(err, http.ErrServerClosed) {
			return net.ErrClosed
		}
		return err
	}
	g.exitDNS = e
	g.entries = append(g.entries, entry{kind: entryExitDNS, closer: srv, addr: ln.Addr(), serve: serve})
	return nil
}

// services returns the entries of the host information that tell peers of the server.
func (e *exitDNS) services() []control.Service {
	if e == nil {
		return nil
	}
	return []control.Service{
		{Proto: servicePeerAPI4, Port: e.port},
		{Proto: servicePeerAPI6, Port: e.port},
		{Proto: serviceDNSProxy, Port: 1}, // the port only says that there is a server
	}
}

// admits reports whether a peer may connect to the port because it is the server's. The map's
// filter does not list that port.
func (e *exitDNS) admits(peer netip.Addr, port uint16) bool {
	return e != nil && port == e.port && e.serves(peer)
}

// serves reports whether the policy lets a peer reach the Internet through this node.
func (e *exitDNS) serves(peer netip.Addr) bool {
	to := internet4
	if peer = peer.Unmap(); peer.Is6() {
		to = internet6
	}
	return e.member != nil && e.member.mapper.filter.Allows(peer, to)
}

// ServeHTTP implements http.Handler.
func (e *exitDNS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	switch {
	case err != nil || !e.serves(peer.Addr()): // the policy may have changed since it connected
		http.Error(w, "this peer may not use this exit node", http.StatusForbidden)
		return
	case r.URL.Path != pathDNSQuery:
		http.NotFound(w, r)
		return
	case !e.life.begin():
		http.Error(w, "the node is closing", http.StatusServiceUnavailable)
		return
	}
	defer e.life.done()
	b, err := readQuery(w, r)
	q := new(dns.Msg)
	if err == nil {
		err = q.Unpack(b)
	}
	if err == nil && (q.Response || len(q.Question) != 1) {
		err = errors.New("want a query with one question")
	}
	if err != nil {
		http.Error(w, "reading the DNS query: "+err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := e.respond(r.Context(), share.SourceOf(e.plane.peerOf(peer.Addr().Unmap())), q).Pack()
	if err != nil {
		http.Error(w, "packing the DNS answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", dnsMessageType)
	w.Write(answer)
}

// readQuery reads the message of a request (RFC 8484, section 4.1).
func readQuery(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	switch r.Method {
	case http.MethodGet:
		return base64.RawURLEncoding.DecodeString(r.URL.Query().Get("dns"))
	case http.MethodPost:
		if kind := r.Header.Get("Content-Type"); kind != dnsMessageType {
			return nil, fmt.Errorf("content type %q, want %s", kind, dnsMessageType)
		}
		return io.ReadAll(http.MaxBytesReader(w, r.Body, maxDNSMessage))
	}
	return nil, fmt.Errorf("method %s, want GET or POST", r.Method)
}

// respond returns the response to a query. src is the peer.
func (e *exitDNS) respond(ctx context.Context, src netip.Prefix, q *dns.Msg) *dns.Msg {
	r := new(dns.Msg).SetReply(q)
	r.RecursionAvailable = true
	asked := q.Question[0]
	name, m := hostName(asked.Name), e.plane.netmap.Load()
	switch {
	case q.Opcode != dns.OpcodeQuery:
		r.Rcode = dns.RcodeNotImplemented
	case asked.Qclass != dns.ClassINET, asked.Qtype == dns.TypeAXFR, asked.Qtype == dns.TypeIXFR, m.DNS.withholds(name):
		r.Rcode = dns.RcodeRefused
	case m.Domain != "" && inDomain(name, m.Domain): // these are not for the host's nameservers
		r.Rcode = dns.RcodeNameError
	case !e.limits.questions.Take(src, 1):
		r.Rcode = dns.RcodeServerFailure
	default:
		defer e.limits.questions.Give(src, 1)
		if err := e.ask(ctx, q, r); err != nil {
			r.Rcode = dns.RcodeServerFailure
			e.log.Debug("answering DNS as the exit node", "from", src, "err", err)
		}
	}
	return r
}

// ask copies the answer of the host's nameservers to q into r.
func (e *exitDNS) ask(ctx context.Context, q, r *dns.Msg) error {
	servers, err := e.hostNameservers()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dnsPatience)
	defer cancel()
	stop := context.AfterFunc(e.life.ctx, cancel)
	defer stop()
	query, err := forwarded(q).Pack()
	if err != nil {
		return err
	}
	b, err := e.names.Exchange(ctx, query, servers)
	if err != nil {
		return err
	}
	return takeAnswer(r, b)
}

// hostNameservers reads /etc/resolv.conf, which may have changed. It leaves out this node's own DNS
// server, which might ask the exit node again.
func (e *exitDNS) hostNameservers() (servers []resolver.Server, err error) {
	conf, err := dns.ClientConfigFromFile(e.conf)
	if err != nil {
		return nil, err
	}
	for _, s := range conf.Servers {
		if e.own.IsValid() && leadsTo([]string{s}, e.own) {
			continue
		}
		if a, err := netip.ParseAddr(s); err == nil {
			servers = append(servers, resolver.Server{Addr: netip.AddrPortFrom(a, dnsPort)})
		}
	}
	return servers, nil
}

// withholds reports whether an exit node must not answer for a name. An entry that begins with a
// dot stands for all names below it.
func (d *DNS) withholds(name string) bool {
	return slices.ContainsFunc(d.Withheld, func(s string) bool {
		return name == s || strings.HasPrefix(s, ".") && strings.HasSuffix(name, s)
	})
}
