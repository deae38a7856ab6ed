package proxy

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/things-go/go-socks5"
	"github.com/things-go/go-socks5/statute"
)

const socks5Version = statute.VersionSocks5

// socks5Servers do the handshake: asking wants a password if Server.Auth is set, open wants none.
type socks5Servers struct{ asking, open *socks5.Server }

// newSOCKS5 configures the library to do only the handshake (RFC 1928 sections 3 and 4, RFC 1929).
// Its command handlers are not used: they dial without a context, derive reply codes from the text
// of errors, hold copy buffers for the life of a connection, and accept datagrams from any sender.
// Instead captureRequest takes over the request of each command, and the library returns before it
// dials.
func newSOCKS5(auth func(user, password string) bool) *socks5.Server {
	var methods []socks5.Authenticator
	if auth == nil {
		// Some clients that were given a password offer only the password method.
		auth = func(string, string) bool { return true }
		methods = append(methods, socks5.NoAuthAuthenticator{})
	}
	methods = append(methods, socks5.UserPassAuthenticator{Credentials: credentials(auth)})
	return socks5.NewServer(
		socks5.WithAuthMethods(methods),
		socks5.WithResolver(unresolved{}),
		socks5.WithConnectHandle(captureRequest),
		socks5.WithAssociateHandle(captureRequest),
	)
}

type credentials func(user, password string) bool

// Valid implements socks5.CredentialStore.
func (c credentials) Valid(user, password, _ string) bool { return c(user, password) }

// unresolved leaves names unresolved, because the network behind Dial resolves them.
type unresolved struct{}

// Resolve implements socks5.NameResolver.
func (unresolved) Resolve(ctx context.Context, _ string) (context.Context, net.IP, error) {
	return ctx, nil, nil
}

// socks5Handshake is the view of a conn that the library gets.
type socks5Handshake struct {
	*conn
	request *socks5.Request // set by captureRequest
}

// Close does nothing, because the conn stays open after the library has returned.
func (*socks5Handshake) Close() error { return nil }

// captureRequest is the library's handler for every supported command. It keeps the request, and
// what the library's reader has read beyond it.
func captureRequest(_ context.Context, w io.Writer, req *socks5.Request) error {
	h := w.(*socks5Handshake)
	h.request = req
	if r, ok := req.Reader.(*bufio.Reader); ok {
		ahead, _ := r.Peek(r.Buffered())
		h.prependAhead(ahead)
	}
	return nil
}

func (c *conn) serveSOCKS5() {
	h, server := &socks5Handshake{conn: c}, c.srv.socks5.open
	if c.needsPassword() {
		server = c.srv.socks5.asking
	}
	err := server.ServeConn(h)
	switch {
	case errors.Is(err, statute.ErrUserAuthFailed), errors.Is(err, statute.ErrNoSupportedAuth):
		c.srv.counters.authRefused.Add(1)
		c.lingerClose(nil)
	case err != nil || h.request == nil:
		// The library has already answered well-formed requests that it does not support, such as BIND.
		c.handshakeFailed(cmp.Or(err, errCommand))
		c.lingerClose(nil)
	case h.request.Command == statute.CommandAssociate:
		c.associate(h.request.DestAddr)
	default:
		c.connectSOCKS5(h.request.DestAddr)
	}
}

func (c *conn) connectSOCKS5(to *statute.AddrSpec) {
	var r socks5Replies
	if to.AddrType == statute.ATYPDomain && !validHost(to.FQDN) {
		c.lingerClose(r.refused(&net.DNSError{Err: "invalid name", Name: to.FQDN, IsNotFound: true}))
		return
	}
	host := to.FQDN
	if to.AddrType != statute.ATYPDomain {
		host = to.IP.String()
	}
	c.connect(protoSOCKS5, r, net.JoinHostPort(withoutBrackets(host), strconv.Itoa(to.Port)))
}

// withoutBrackets removes the brackets of an IPv6 address that a client has sent as a name, in the
// form that URLs use: "[fd00::1]". It returns other names unchanged.
func withoutBrackets(name string) string {
	inner, opened := strings.CutPrefix(name, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	if _, err := netip.ParseAddr(inner); opened && closed && err == nil {
		return inner
	}
	return name
}

// validHost reports whether a name from a client may be passed on. An empty name is not valid,
// because dialling it usually means this host; neither are spaces and control characters.
func validHost(name string) bool {
	for i := range len(name) {
		if name[i] <= ' ' || name[i] == 0x7f {
			return false
		}
	}
	return name != ""
}

// socks5Replies makes the replies of RFC 1928 section 6. The library's SendReply is not used: for a
// local address whose type is not from package net it sends a failure although the dial succeeded.
type socks5Replies struct{}

func (socks5Replies) granted(local net.Addr) []byte {
	return socks5Reply(statute.RepSuccess, addrPortOf(local))
}

func (socks5Replies) refused(err error) []byte {
	code := failures[reasonOf(err)].socks5
	if errors.Is(err, errCommand) {
		code = statute.RepCommandNotSupported
	}
	return socks5Reply(code, netip.AddrPort{})
}

// socks5Reply returns VER(1)=5 REP(1) RSV(1) ATYP(1) BND.ADDR(4 or 16) BND.PORT(2). An unknown
// address is sent as 0.0.0.0:0.
func socks5Reply(code byte, bound netip.AddrPort) []byte {
	if !bound.IsValid() {
		bound = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return appendAddrPort([]byte{socks5Version, code, 0}, bound)
}
