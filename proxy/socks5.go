package proxy

import (
	"bufio"
	"bytes"
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

// newSOCKS5 configures the library to do the handshake (RFC 1928 sections 3 and 4, RFC 1929) and no
// more. Its own handlers cannot be used: they dial without a context, tell reasons by the text of
// errors, keep their buffers for the life of a connection, pump through them, and accept datagrams
// of anybody. So each command is handed back by captureRequest, and the library returns before
// anything is dialled.
func newSOCKS5(auth func(user, password string) bool) *socks5.Server {
	var methods []socks5.Authenticator
	if auth == nil {
		// Some clients that were given a password offer nothing but passwords.
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

// unresolved leaves names as they are: they mean something in the network behind Dial.
type unresolved struct{}

// Resolve implements socks5.NameResolver.
func (unresolved) Resolve(ctx context.Context, _ string) (context.Context, net.IP, error) {
	return ctx, nil, nil
}

// socks5Handshake is what the library is given for a conn. It stays open when the library is done.
type socks5Handshake struct {
	*conn
	request *socks5.Request // the captured one
}

func (*socks5Handshake) Close() error { return nil }

func captureRequest(_ context.Context, w io.Writer, req *socks5.Request) error {
	h := w.(*socks5Handshake)
	h.request = req
	if r, ok := req.Reader.(*bufio.Reader); ok {
		ahead, _ := r.Peek(r.Buffered())
		h.takeAhead(bytes.Clone(ahead))
	}
	return nil
}

func (c *conn) serveSOCKS5() {
	h, server := &socks5Handshake{conn: c}, c.srv.socks5Open
	if c.needsPassword() {
		server = c.srv.socks5
	}
	err := server.ServeConn(h)
	switch {
	case errors.Is(err, statute.ErrUserAuthFailed), errors.Is(err, statute.ErrNoSupportedAuth):
		c.srv.counters.authRefused.Add(1)
		c.part(nil)
	case err != nil || h.request == nil:
		// What the library could make out but does not support it has answered, BIND among it.
		c.failed(cmp.Or(err, errCommand))
		c.part(nil)
	case h.request.Command == statute.CommandAssociate:
		c.associate(h.request.DestAddr)
	default:
		c.connectSOCKS5(h.request.DestAddr)
	}
}

func (c *conn) connectSOCKS5(to *statute.AddrSpec) {
	var a socks5Answers
	if to.AddrType == statute.ATYPDomain && !validHost(to.FQDN) {
		c.part(a.refused(&net.DNSError{Err: "invalid name", Name: to.FQDN, IsNotFound: true}))
		return
	}
	host := to.FQDN
	if to.AddrType != statute.ATYPDomain {
		host = to.IP.String()
	}
	c.connect(protoSOCKS5, a, net.JoinHostPort(withoutBrackets(host), strconv.Itoa(to.Port)))
}

// withoutBrackets takes the brackets from an IPv6 address that a client has sent as a name in the
// form that URLs have, "[fd00::1]". Other names stay as they are.
func withoutBrackets(name string) string {
	inner, opened := strings.CutPrefix(name, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	if _, err := netip.ParseAddr(inner); opened && closed && err == nil {
		return inner
	}
	return name
}

// validHost reports whether a name from a client may be passed on. An empty one would mean this
// host to many a dialler, and no name has spaces or control characters.
func validHost(name string) bool {
	for i := range len(name) {
		if name[i] <= ' ' || name[i] == 0x7f {
			return false
		}
	}
	return name != ""
}

// socks5Answers makes the replies of RFC 1928 section 6. The library's SendReply is not used: where
// the local address is not one of the net package's it reports a failure for a connection that
// stands.
type socks5Answers struct{}

func (socks5Answers) granted(local net.Addr) []byte {
	return socks5Reply(statute.RepSuccess, addrPortOf(local))
}

func (socks5Answers) refused(err error) []byte {
	code := failures[reasonOf(err)].socks5
	if errors.Is(err, errCommand) {
		code = statute.RepCommandNotSupported
	}
	return socks5Reply(code, netip.AddrPort{})
}

// socks5Reply is VER(1)=5 REP(1) RSV(1) ATYP(1) BND.ADDR(4 or 16) BND.PORT(2). An unknown address
// is 0.0.0.0:0.
func socks5Reply(code byte, bound netip.AddrPort) []byte {
	if !bound.IsValid() {
		bound = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return appendAddrPort([]byte{socks5Version, code, 0}, bound)
}
