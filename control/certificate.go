package control

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"ginnel/internal/safetext"
)

// This file explains why the server's certificate was rejected, the most frequent reason for which
// a new node cannot reach its server.

// CertificateError: we rejected the server's certificate. Its text says what to check. It is an
// ErrUnreachable too.
type CertificateError struct {
	Host string
	Err  error

	// The time on this machine's clock and on the server's, set if the certificate is expired or not
	// yet valid. The server's time is zero if it is unknown.
	now, server time.Time
}

func (e *CertificateError) Error() string {
	return fmt.Sprintf("certificate of %s is not accepted: %s", e.Host, e.hint())
}

// Unwrap returns the error of the TLS library.
func (e *CertificateError) Unwrap() error { return e.Err }

// Is makes it an ErrUnreachable.
func (e *CertificateError) Is(target error) bool { return target == ErrUnreachable }

// hint says what is wrong with the certificate and what to check.
func (e *CertificateError) hint() string {
	if invalid, ok := expired(e.Err); ok {
		return e.clockHint(invalid.Cert)
	}
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](e.Err); ok && unknown.Cert != nil {
		issuer := safetext.Line(unknown.Cert.Issuer.String(), maxExcerpt)
		return fmt.Sprintf("%q signed it, whom this machine does not trust; either TLS is inspected on this network or the "+
			"server has a private authority; if that is right, name its certificate with --ca-file", issuer)
	}
	if name, ok := errors.AsType[x509.HostnameError](e.Err); ok {
		return "it is for another name than " + safetext.Line(name.Host, maxExcerpt)
	}
	return safetext.Line(e.Err.Error(), maxExcerpt)
}

// clockHint says whether this machine's clock is wrong or the certificate has expired.
func (e *CertificateError) clockHint(cert *x509.Certificate) string {
	text := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	valid := fmt.Sprintf("it is valid from %s to %s, and this machine's clock says %s",
		text(cert.NotBefore), text(cert.NotAfter), text(e.now))
	switch skew := e.now.Sub(e.server).Abs(); {
	case e.server.IsZero():
		return valid + "; either that is wrong or the certificate was not renewed"
	case skew > maxSkew:
		return fmt.Sprintf("%s, which seems to be wrong: the server's says %s", valid, text(e.server))
	}
	return valid + ", as the server's does: the certificate was not renewed"
}

// maxSkew is how far two clocks may differ while both count as right.
const maxSkew = 10 * time.Minute

// expired finds in err that a certificate has expired or is not yet valid.
func expired(err error) (invalid x509.CertificateInvalidError, ok bool) {
	invalid, ok = errors.AsType[x509.CertificateInvalidError](err)
	return invalid, ok && invalid.Reason == x509.Expired && invalid.Cert != nil
}

// tlsError explains a failed TLS handshake: by a CertificateError if the certificate was the
// reason.
func (c *Client) tlsError(ctx context.Context, addr, host string, cfg *tls.Config, err error) error {
	v, ok := errors.AsType[*tls.CertificateVerificationError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	// Whoever presents a rejected certificate may be an attacker, who can answer plain HTTP too. After
	// a rejected certificate, only private hosts lead to the advice to use http://.
	if (noTLS || ok && private(host)) && c.isPlain(ctx, addr) {
		return fmt.Errorf("TLS handshake with %s: %w; use http://%s", host, ErrPlainPort, addr)
	}
	if !ok {
		return fmt.Errorf("TLS handshake with %s: %w", host, err)
	}
	e := &CertificateError{Host: host, Err: v.Err}
	if invalid, ok := expired(v.Err); ok {
		e.now = time.Now()
		if cfg.Time != nil {
			e.now = cfg.Time()
		}
		e.server, _ = c.serverTime(ctx, addr, cfg, invalid.Cert) // if it fails, the hint is shorter
	}
	return e
}

// isPlain reports whether a coordination server answers plain HTTP at addr. The same port may speak
// TLS too, for clients of the server's relay.
func (c *Client) isPlain(ctx context.Context, addr string) bool {
	conn, err := c.dialTCP(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	var keys ServerKeys
	err = bounded(ctx, conn, func() error {
		_, err := fmt.Fprintf(conn, "GET /key?v=%d HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
			CapabilityVersion, addr)
		if err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxResponseHead+maxServerKey)), nil)
		if err != nil {
			return err
		}
		return json.NewDecoder(resp.Body).Decode(&keys)
	})
	return err == nil && !keys.PublicKey.IsZero()
}

// serverTime reads the server's clock from the Date header of an HTTPS response. The certificate is
// verified as of the middle of its validity, so everything except its dates must be right.
func (c *Client) serverTime(ctx context.Context, addr string, cfg *tls.Config, cert *x509.Certificate) (
	now time.Time, err error) {
	conn, err := c.dialTCP(ctx, "tcp", addr)
	if err != nil {
		return now, err
	}
	defer conn.Close()
	cfg = cfg.Clone()
	cfg.Time = func() time.Time { return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 2) }
	t := tls.Client(conn, cfg)
	err = bounded(ctx, conn, func() error {
		if _, err := fmt.Fprintf(t, "HEAD / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", cfg.ServerName); err != nil {
			return err
		}
		head := bufio.NewReader(io.LimitReader(t, maxResponseHead))
		resp, err := http.ReadResponse(head, &http.Request{Method: http.MethodHead})
		if err != nil {
			return err
		}
		now, err = http.ParseTime(resp.Header.Get("Date"))
		return err
	})
	return now, err
}
