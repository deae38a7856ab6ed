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

	"ginnel/internal/key"
	"ginnel/internal/share"
	"ginnel/relay/internal/derp"
)

const (
	admissionTimeout   = 5 * time.Second
	maxAdmissionAnswer = 4 << 10
)

var (
	errNotAdmitted = errors.New("the admission controller refuses the client")
	errRevoked     = errors.New("the admission of the client was revoked")
)

// admissionRequest and admissionResponse are what is exchanged with an admission controller (6.2).
type (
	admissionRequest struct {
		NodePublic key.NodePublic
		Source     netip.Addr // empty if it is not known
	}
	admissionResponse struct{ Allow bool }
)

// checkAdmission asks the admission controller, if there is one, whether a client may connect.
// Failing open covers only a request that fails, never a bad answer.
func (s *Server) checkAdmission(client key.NodePublic, source netip.Addr) error {
	if s.cfg.AdmissionURL == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, admissionTimeout)
	defer cancel()
	body := derp.MustJSON(admissionRequest{NodePublic: client, Source: source})
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

// Revoke cuts a client off that the admission controller has let in and would refuse now. One whose
// answer is on its way is asked about again. It does not block.
func (s *Server) Revoke(client key.NodePublic) {
	s.revoked.Add(1)
	for _, c := range s.registry.connsOf(client) {
		if c.trust != meshPeer {
			c.conn.Fail(errRevoked)
		}
	}
}

// stillAdmitted asks again about a client that can be found by Revoke since now, if that was called
// in between.
func (c *serverConn) stillAdmitted() error {
	if c.trust == meshPeer || c.s.revoked.Load() == c.revoked {
		return nil
	}
	return c.s.checkAdmission(c.key, c.remote.Addr())
}
