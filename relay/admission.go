package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"

	"ginnel/internal/key"
)

const (
	admissionTimeout   = 5 * time.Second
	maxAdmissionAnswer = 4 << 10
)

var errNotAdmitted = errors.New("the admission controller refuses the client")

// admissionRequest and admissionResponse are what is exchanged with an admission controller (6.2).
type (
	admissionRequest struct {
		NodePublic key.NodePublic
		Source     netip.Addr // empty if it is not known
	}
	admissionResponse struct{ Allow bool }
)

// checkAdmission asks the admission controller, if there is one, whether a client may connect. Failing open covers only
// a request that fails, never a bad answer.
func (s *Server) checkAdmission(client key.NodePublic, source netip.Addr) error {
	if s.cfg.AdmissionURL == "" {
		return nil
	}
	ctx, release := s.calls.context(admissionTimeout)
	defer release()
	body := mustJSON(admissionRequest{NodePublic: client, Source: source})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.AdmissionURL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("asking the admission controller: %w", err)
	}
	resp, err := s.cfg.httpClient().Do(req)
	if err != nil {
		if s.cfg.AdmissionStrict {
			return fmt.Errorf("asking the admission controller: %w", err)
		}
		s.log.Warn("admission controller not reachable, client admitted", "key", client, "err", err)
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
