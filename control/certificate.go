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
)

// What is said of a certificate that is not accepted, which is the most frequent trouble.

// CertificateError says that TLS was refused by us, and what that may mean. It is an ErrUnreachable
// too.
type CertificateError struct {
	Host string
	Err  error

	now, server time.Time // what the clocks say, here and there, if the certificate is not valid now; server may be unknown
}

func (e *CertificateError) Error() string {
	return fmt.Sprintf("certificate of %s is not accepted: %s", e.Host, e.hint())
}

// Unwrap returns the verdict of the TLS library.
func (e *CertificateError) Unwrap() error { return e.Err }

// Is makes it an ErrUnreachable.
func (e *CertificateError) Is(target error) bool { return target == ErrUnreachable }

// hint says what to look at.
func (e *CertificateError) hint() string {
	if invalid, ok := expired(e.Err); ok {
		return e.clockHint(invalid.Cert)
	}
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](e.Err); ok && unknown.Cert != nil {
		return fmt.Sprintf("%q signed it, whom this machine does not trust; either TLS is inspected on this network or the "+
			"server has a private authority; if that is right, name its certificate with --ca-file", printable(unknown.Cert.Issuer.String()))
	}
	if name, ok := errors.AsType[x509.HostnameError](e.Err); ok {
		return "it is for another name than " + printable(name.Host)
	}
	return e.Err.Error()
}

// clockHint says whether this machine's clock or the certificate is to blame.
func (e *CertificateError) clockHint(cert *x509.Certificate) string {
	text := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	valid := fmt.Sprintf("it is valid from %s to %s, and this machine's clock says %s", text(cert.NotBefore), text(cert.NotAfter), text(e.now))
	switch skew := e.now.Sub(e.server).Abs(); {
	case e.server.IsZero():
		return valid + "; either that is wrong or the certificate was not renewed"
	case skew > maxSkew:
		return fmt.Sprintf("%s, which seems to be wrong: the server's says %s", valid, text(e.server))
	}
	return valid + ", as the server's does: the certificate was not renewed"
}

// maxSkew is how far two clocks may differ and both be taken for right.
const maxSkew = 10 * time.Minute

// expired finds the verdict that a certificate is not valid yet, or any more.
func expired(err error) (invalid x509.CertificateInvalidError, ok bool) {
	invalid, ok = errors.AsType[x509.CertificateInvalidError](err)
	return invalid, ok && invalid.Reason == x509.Expired && invalid.Cert != nil
}

// tlsError names the certificate if that is what was wrong.
func (c *Client) tlsError(ctx context.Context, addr, host string, cfg *tls.Config, err error) error {
	v, ok := errors.AsType[*tls.CertificateVerificationError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	// Where plain HTTP is not good enough, whoever answers it may be the one whose certificate is not
	// accepted: nobody must be led from TLS to HTTP by that.
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
		e.server, _ = c.serverTime(ctx, addr, cfg, invalid.Cert) // without it less can be said
	}
	return e
}

// isPlain reports whether a coordination server answers without TLS at an address. It may speak TLS
// there as well, for the clients of its relay.
func (c *Client) isPlain(ctx context.Context, addr string) bool {
	conn, err := c.dialTCP(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	var keys ServerKeys
	err = bounded(ctx, conn, func() error {
		if _, err := fmt.Fprintf(conn, "GET /key?v=%d HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", CapabilityVersion, addr); err != nil {
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

// serverTime asks a server what time it is. Its certificate has to be good but for the time.
func (c *Client) serverTime(ctx context.Context, addr string, cfg *tls.Config, cert *x509.Certificate) (now time.Time, err error) {
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
		resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(t, maxResponseHead)), &http.Request{Method: http.MethodHead})
		if err != nil {
			return err
		}
		now, err = http.ParseTime(resp.Header.Get("Date"))
		return err
	})
	return now, err
}
