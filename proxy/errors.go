package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/things-go/go-socks5/statute"

	"ginnel/internal/neterr"
	"ginnel/internal/safetext"
)

// ErrNeedsAuth is returned by Serve for a listener that other machines can reach while Auth is nil.
var ErrNeedsAuth = errors.New("proxy: listener is neither loopback nor a unix socket, and there is no authentication")

var (
	errServerClosed = fmt.Errorf("proxy: server closed: %w", net.ErrClosed)
	errNoDial       = errors.New("proxy: Server.Dial is not set")
	errRefusedAuth  = errors.New("user name or password refused")
	errCommand      = errors.New("command not supported")
	errTooMany      = errors.New("too many UDP associations")
)

// reason is the cause of a failed dial, as far as the protocols can express it. It indexes
// failures.
type reason int

const (
	denied reason = iota
	networkUnreachable
	hostUnreachable
	connectionRefused
	timedOut
	otherFailure

	reasons = iota
)

// failures maps errors of Dial to the reply codes of each protocol. The first row that matches
// counts. Only standard errors are tested, so that a Dial need not know this package.
var failures = [reasons]struct {
	matches func(error) bool
	socks5  byte // RFC 1928 section 6, REP
	http    int
}{
	denied:             {isDenied, statute.RepRuleFailure, http.StatusForbidden},
	networkUnreachable: {is(syscall.ENETUNREACH), statute.RepNetworkUnreachable, http.StatusBadGateway},
	hostUnreachable:    {isHostUnreachable, statute.RepHostUnreachable, http.StatusBadGateway},
	connectionRefused:  {is(syscall.ECONNREFUSED), statute.RepConnectionRefused, http.StatusBadGateway},
	timedOut:           {isTimeout, statute.RepTTLExpired, http.StatusGatewayTimeout},
	otherFailure:       {func(error) bool { return true }, statute.RepServerFailure, http.StatusBadGateway},
}

func reasonOf(err error) reason {
	for r := range failures {
		if failures[r].matches(err) {
			return reason(r)
		}
	}
	return otherFailure
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func isDenied(err error) bool {
	return errors.Is(err, syscall.EACCES) || errors.Is(err, fs.ErrPermission)
}

func isHostUnreachable(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound || errors.Is(err, syscall.EHOSTUNREACH)
}

func isTimeout(err error) bool {
	if errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// dialError adds the destination to the error of a dial, which need not name it.
type dialError struct {
	destination string
	err         error
}

func (e *dialError) Error() string {
	return "reaching " + e.destination + ": " + neterr.Cause(e.destination, e.err).Error()
}

func (e *dialError) Unwrap() error { return e.err }

// maxSentence bounds the text of an error in an HTTP body; a longer one is cut.
const maxSentence = 1 << 10

// sentence returns err as one line that is safe to show, because names in it come from clients.
func sentence(err error) string { return safetext.Line(err.Error(), maxSentence) }
