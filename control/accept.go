package control

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"ginnel/internal/wsstream"
	"ginnel/key"
)

// This file is the server's end of the upgrade to a channel (control specification, sections 2.1,
// 2.7 and 2.8).

const (
	upgradePath         = "/ts2021"
	upgradeProtocol     = "tailscale-control-protocol"
	headerHandshake     = "X-Tailscale-Handshake"
	handshakeTimeout    = 10 * time.Second
	refuseUnopenable    = "the handshake was made for another server key, or damaged on the way"
	refuseUnknownFormat = "the handshake is malformed"
)

// AcceptConfig configures a server's end of a channel.
type AcceptConfig struct {
	Key        key.MachinePrivate // the server's; required
	MinVersion int                // lowest capability version that is accepted; 0: MinCapabilityVersion
	Timeout    time.Duration      // for the whole handshake; 0: 10 s
}

func (c *AcceptConfig) minVersion() int {
	if c.MinVersion == 0 {
		return MinCapabilityVersion
	}
	return c.MinVersion
}

func (c *AcceptConfig) timeout() time.Duration {
	if c.Timeout == 0 {
		return handshakeTimeout
	}
	return c.Timeout
}

// VersionError: the client's capability version is too old.
type VersionError struct{ Version, Min int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("client speaks capability version %d, this server version %d and later", e.Version, e.Min)
}

// Accept upgrades an HTTP request to a channel. ctx bounds the handshake only: the channel outlives
// it and the request, and the caller closes it. If Accept fails it has answered the request, and
// the connection is closed, by Accept or by the HTTP server.
func Accept(ctx context.Context, w http.ResponseWriter, r *http.Request, cfg AcceptConfig) (*Conn, error) {
	if cfg.Key.IsZero() {
		http.Error(w, "the server has no key", http.StatusInternalServerError)
		return nil, errors.New("accepting a channel: server has no key")
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.timeout())
	defer cancel()
	switch upgrade := strings.ToLower(r.Header.Get("Upgrade")); {
	case r.ProtoMajor != 1:
		return nil, refuse(w, "the upgrade needs HTTP/1.1")
	case upgrade == upgradeProtocol && r.Method == http.MethodPost:
		return acceptNative(ctx, w, r, &cfg)
	case upgrade == "websocket" && r.Method == http.MethodGet:
		return acceptWebSocket(ctx, w, r, &cfg)
	}
	return nil, refuse(w, "want an upgrade to "+upgradeProtocol)
}

// refuse answers 400.
func refuse(w http.ResponseWriter, why string) error {
	http.Error(w, why, http.StatusBadRequest)
	return errors.New("refusing an upgrade: " + why)
}

// decodeInitiation reads the text form of an initiation.
func decodeInitiation(text string) ([]byte, error) {
	if len(text) > base64.StdEncoding.EncodedLen(initiationSize) {
		return nil, errInitiation
	}
	return base64.StdEncoding.DecodeString(text)
}

func acceptNative(ctx context.Context, w http.ResponseWriter, r *http.Request, cfg *AcceptConfig) (*Conn, error) {
	initiation, err := decodeInitiation(r.Header.Get(headerHandshake))
	if err != nil || len(initiation) == 0 {
		return nil, refuse(w, "the header "+headerHandshake+" is missing or malformed")
	}
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, refuse(w, "the connection cannot be upgraded")
	}
	var c *Conn
	err = bounded(ctx, conn, func() (err error) {
		first, _ := brw.Reader.Peek(brw.Reader.Buffered())
		head := "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: " + upgradeProtocol + "\r\n\r\n"
		c, err = answer(conn, []byte(head), initiation, first, cfg)
		return err
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("accepting a channel: %w", err)
	}
	return c, nil
}

func acceptWebSocket(ctx context.Context, w http.ResponseWriter, r *http.Request, cfg *AcceptConfig) (*Conn, error) {
	initiation, err := decodeInitiation(r.URL.Query().Get(headerHandshake))
	if err != nil || len(initiation) == 0 {
		return nil, refuse(w, "the parameter "+headerHandshake+" is missing or malformed")
	}
	conn, err := wsstream.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       []string{upgradeProtocol},
		InsecureSkipVerify: true, // every origin is accepted: a web page too must prove a machine key
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, fmt.Errorf("accepting a WebSocket: %w", err)
	}
	if conn.Subprotocol() != upgradeProtocol {
		conn.Refuse("want the subprotocol " + upgradeProtocol)
		return nil, errors.New("accepting a WebSocket: it speaks another protocol")
	}
	var c *Conn
	err = bounded(ctx, conn.Conn, func() (err error) {
		c, err = answer(conn, nil, initiation, nil, cfg)
		return err
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("accepting a channel: %w", err)
	}
	return c, nil
}

// answer sends head and the handshake response, or head and an error frame if the initiation is
// refused. first are bytes that were read after the initiation.
func answer(conn net.Conn, head, initiation, first []byte, cfg *AcceptConfig) (*Conn, error) {
	s, response, err := admit(initiation, cfg)
	if err != nil {
		conn.Write(appendErrorFrame(head, refusalText(err))) // best effort: the connection is closed anyway
		return nil, err
	}
	if _, err := conn.Write(append(head, response[:]...)); err != nil {
		return nil, fmt.Errorf("sending the handshake response: %w", err)
	}
	return newConn(conn, s, first), nil
}

// admit checks the version of an initiation and, if it is accepted, makes the response.
func admit(initiation []byte, cfg *AcceptConfig) (*session, [responseSize]byte, error) {
	version, err := initiationVersion(initiation)
	if err != nil {
		return nil, [responseSize]byte{}, err
	}
	if int(version) < cfg.minVersion() {
		return nil, [responseSize]byte{}, &VersionError{Version: int(version), Min: cfg.minVersion()}
	}
	return respond(cfg.Key, initiation, nil)
}

// refusalText returns the text of the error frame for a refused initiation.
func refusalText(err error) string {
	if v, ok := errors.AsType[*VersionError](err); ok {
		return v.Error()
	}
	if errors.Is(err, errInitiation) {
		return refuseUnknownFormat
	}
	return refuseUnopenable
}

// bounded runs a handshake on conn. It closes conn if ctx ends during the handshake.
func bounded(ctx context.Context, conn net.Conn, handshake func() error) error {
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := handshake()
	if !stop() {
		return context.Cause(ctx)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	return err
}
