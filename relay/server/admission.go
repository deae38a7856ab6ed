package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"

	"ginnel/internal/share"
	"ginnel/key"
)

const (
	admissionTimeout   = 5 * time.Second
	maxAdmissionAnswer = 4 << 10
)

var (
	errNotAdmitted = errors.New("admission controller refused the client")
	errRevoked     = errors.New("admission of the client was revoked")
)

// admissionRequest and admissionResponse are the request to an admission controller and its answer
// (6.2).
type (
	admissionRequest struct {
		NodePublic key.NodePublic
		Source     netip.Addr // empty if it is not known
	}
	admissionResponse struct{ Allow bool }
)

// checkAdmission asks the admission controller, if there is one, whether a client may connect. A
// request that fails admits the client unless AdmissionStrict is set; a bad answer never does.
func (s *Server) checkAdmission(client key.NodePublic, source netip.Addr) error {
	if s.cfg.AdmissionURL == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, admissionTimeout)
	defer cancel()
	body, err := json.Marshal(admissionRequest{NodePublic: client, Source: source})
	if err != nil {
		return fmt.Errorf("asking the admission controller: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.AdmissionURL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("asking the admission controller: %w", err)
	}
	resp, err := s.cfg.httpClient().Do(req)
	if err != nil {
		if s.cfg.AdmissionStrict {
			return fmt.Errorf("asking the admission controller: %w", err)
		}
		s.clientLogs.unadmitted.Write(time.Now(), share.SourceOf(source), "key", client, "err", err)
		return nil
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the admission controller: status %s", resp.Status)
	}
	var answer admissionResponse
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAdmissionAnswer)).Decode(&answer); err != nil {
		return fmt.Errorf("reading the admission controller's answer: %w", err)
	}
	if !answer.Allow {
		return errNotAdmitted
	}
	return nil
}

// Revoke closes the connections of a client that the admission controller would refuse now. If the
// controller is just being asked about the client, it is asked again. Revoke does not block.
func (s *Server) Revoke(client key.NodePublic) {
	s.revocations.Add(1)
	for _, c := range s.registry.connsOf(client) {
		if c.trust != meshPeer {
			c.conn.Fail(errRevoked)
		}
	}
}

// stillAdmitted asks the admission controller again if Revoke was called after it answered and
// before the client was registered, where Revoke finds it.
func (c *serverConn) stillAdmitted() error {
	if c.trust == meshPeer || c.s.revocations.Load() == c.revocations {
		return nil
	}
	return c.s.checkAdmission(c.key, c.remote.Addr())
}
