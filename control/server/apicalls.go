package server

import (
	"fmt"
	"io"
	"net/http"

	"ginnel/control/policy"
)

// This file reads the requests of the API, calls the operations and hands back their answers.
// Nothing is decided here.

func (s *Server) apiListUsers(r *http.Request) (any, error) {
	w, err := windowOf(r)
	if err != nil {
		return nil, err
	}
	return s.listUsers(r.Context(), w)
}

func (s *Server) apiCreateUser(r *http.Request) (any, error) {
	req, err := body[userRequest](r)
	if err != nil {
		return nil, err
	}
	return s.CreateUser(r.Context(), req.Name, req.DisplayName)
}

func (s *Server) apiRenameUser(r *http.Request) (any, error) {
	req, err := body[userRequest](r)
	if err != nil {
		return nil, err
	}
	rename := func(r *http.Request, id int64) (any, error) {
		return s.renameUser(r.Context(), id, req.Name, req.DisplayName)
	}
	return numbered(rename)(r)
}

func (s *Server) apiDeleteUser(r *http.Request, id int64) (any, error) {
	return nil, s.deleteUser(r.Context(), id)
}

func (s *Server) apiListKeys(r *http.Request) (any, error) {
	w, err := windowOf(r)
	if err != nil {
		return nil, err
	}
	return s.listKeys(r.Context(), r.URL.Query().Get("user"), w)
}

func (s *Server) apiCreateKey(r *http.Request) (any, error) {
	req, err := body[AuthKeyRequest](r)
	if err != nil {
		return nil, err
	}
	return s.CreateAuthKey(r.Context(), req)
}

func (s *Server) apiExpireKey(r *http.Request, id int64) (any, error) {
	return s.expireKey(r.Context(), id)
}

func (s *Server) apiDeleteKey(r *http.Request, id int64) (any, error) {
	return nil, s.deleteKey(r.Context(), id)
}

func (s *Server) apiListNodes(r *http.Request) (any, error) {
	w, err := windowOf(r)
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	return s.listNodes(r.Context(), nodeFilter{user: q.Get("user"), name: q.Get("name")}, w)
}

func (s *Server) apiNode(r *http.Request, id int64) (any, error) { return s.node(r.Context(), id) }

func (s *Server) apiDeleteNode(r *http.Request, id int64) (any, error) {
	then := returnAllowed
	if r.URL.Query().Get("block") == "true" {
		then = returnBlocked
	}
	return nil, s.deleteNode(r.Context(), id, then)
}

func (s *Server) apiListBlocked(r *http.Request) (any, error) { return s.listBlocked(r.Context()) }

func (s *Server) apiUnblock(r *http.Request) (any, error) {
	return nil, s.unblock(r.Context(), r.PathValue("id"))
}

func (s *Server) apiExpireNode(r *http.Request, id int64) (any, error) {
	req, err := body[expireRequest](r)
	if err != nil {
		return nil, err
	}
	switch {
	case req.Never && req.At != nil:
		return nil, badRequest("\"at\" and \"never\" exclude each other")
	case req.Never:
		return s.expireNode(r.Context(), id, &never)
	case req.At != nil && req.At.IsZero():
		return nil, badRequest("\"at\" is the zero time: leave it out for now, or say \"never\": true")
	}
	return s.expireNode(r.Context(), id, req.At)
}

func (s *Server) apiRenameNode(r *http.Request, id int64) (any, error) {
	req, err := body[renameRequest](r)
	if err != nil {
		return nil, err
	}
	return s.renameNode(r.Context(), id, req.Name)
}

func (s *Server) apiTagNode(r *http.Request, id int64) (any, error) {
	req, err := body[tagsRequest](r)
	if err != nil {
		return nil, err
	}
	return s.tagNode(r.Context(), id, req.Tags)
}

func (s *Server) apiMoveNode(r *http.Request, id int64) (any, error) {
	req, err := body[ownerRequest](r)
	if err != nil {
		return nil, err
	}
	return s.moveNode(r.Context(), id, req.User)
}

func (s *Server) apiApproveRoutes(r *http.Request, id int64) (any, error) {
	req, err := body[routesRequest](r)
	if err != nil {
		return nil, err
	}
	return s.approveRoutes(r.Context(), id, req.Approved)
}

func (s *Server) apiListRoutes(r *http.Request) (any, error) {
	w, err := windowOf(r)
	if err != nil {
		return nil, err
	}
	return s.listRoutes(r.Context(), w)
}

func (s *Server) apiListLogins(r *http.Request) (any, error) { return s.listLogins(r.Context()) }

func (s *Server) apiApproveLogin(r *http.Request) (any, error) {
	req, err := body[ownerRequest](r)
	if err != nil {
		return nil, err
	}
	return s.ApproveLogin(r.Context(), r.PathValue("id"), req.User)
}

func (s *Server) apiRefuseLogin(r *http.Request) (any, error) {
	return nil, s.refuseLogin(r.Context(), r.PathValue("id"))
}

func (s *Server) apiPolicy(r *http.Request) (any, error) { return s.currentPolicy(r.Context()) }

// policyText reads a policy: it is the body of the request, not a document around it, so that a
// file can be sent as it is.
func policyText(r *http.Request) ([]byte, error) {
	text, err := io.ReadAll(r.Body)
	if isTooLarge(err) || len(text) > policy.MaxSize {
		return nil, &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("the policy has more than %d bytes", policy.MaxSize)}
	}
	if err != nil {
		return nil, badRequest("reading the policy: %v", err)
	}
	return text, nil
}

func (s *Server) apiSetPolicy(r *http.Request) (any, error) {
	text, err := policyText(r)
	if err != nil {
		return nil, err
	}
	return s.SetPolicy(r.Context(), text)
}

func (s *Server) apiDeletePolicy(r *http.Request) (any, error) {
	return nil, s.deletePolicy(r.Context())
}

func (s *Server) apiCheckPolicy(r *http.Request) (any, error) {
	text, err := policyText(r)
	if err != nil {
		return nil, err
	}
	detail := verdictOnly
	if r.URL.Query().Get("explain") == "true" {
		detail = explained
	}
	return s.checkPolicy(r.Context(), text, detail)
}

func (s *Server) apiListTokens(r *http.Request) (any, error) {
	w, err := windowOf(r)
	if err != nil {
		return nil, err
	}
	return s.listTokens(r.Context(), w)
}

func (s *Server) apiCreateToken(r *http.Request) (any, error) {
	req, err := body[tokenRequest](r)
	if err != nil {
		return nil, err
	}
	return s.CreateToken(r.Context(), req.Name, req.Expiry)
}

func (s *Server) apiDeleteToken(r *http.Request, id int64) (any, error) {
	return nil, s.deleteToken(r.Context(), id)
}
