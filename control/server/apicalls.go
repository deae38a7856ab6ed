package server

import (
	"fmt"
	"io"
	"net/http"

	"ginnel/control/policy"
)

// The functions of this file read the requests of the API and call the operations. They make no
// decisions.

func (s *Server) apiListUsers(r *http.Request) (a Page[User], err error) {
	w, err := pageRequestOf(r)
	if err != nil {
		return a, err
	}
	return s.listUsers(r.Context(), w)
}

func (s *Server) apiCreateUser(r *http.Request) (a User, err error) {
	req, err := body[userRequest](r)
	if err != nil {
		return a, err
	}
	return s.CreateUser(r.Context(), req.Name, req.DisplayName)
}

func (s *Server) apiRenameUser(r *http.Request, id int64) (a User, err error) {
	req, err := body[userRequest](r)
	if err != nil {
		return a, err
	}
	return s.renameUser(r.Context(), id, req.Name, req.DisplayName)
}

func (s *Server) apiDeleteUser(r *http.Request, id int64) error {
	return s.deleteUser(r.Context(), id)
}

func (s *Server) apiListKeys(r *http.Request) (a Page[AuthKey], err error) {
	w, err := pageRequestOf(r)
	if err != nil {
		return a, err
	}
	return s.listKeys(r.Context(), r.URL.Query().Get("user"), w)
}

func (s *Server) apiCreateKey(r *http.Request) (a AuthKey, err error) {
	req, err := body[AuthKeyRequest](r)
	if err != nil {
		return a, err
	}
	return s.CreateAuthKey(r.Context(), req)
}

func (s *Server) apiExpireKey(r *http.Request, id int64) (AuthKey, error) {
	return s.expireKey(r.Context(), id)
}

func (s *Server) apiDeleteKey(r *http.Request, id int64) error {
	return s.deleteKey(r.Context(), id)
}

func (s *Server) apiListNodes(r *http.Request) (a Page[Node], err error) {
	w, err := pageRequestOf(r)
	if err != nil {
		return a, err
	}
	q := r.URL.Query()
	return s.listNodes(r.Context(), nodeFilter{user: q.Get("user"), name: q.Get("name")}, w)
}

func (s *Server) apiNode(r *http.Request, id int64) (Node, error) { return s.node(r.Context(), id) }

func (s *Server) apiDeleteNode(r *http.Request, id int64) error {
	then := returnAllowed
	if r.URL.Query().Get("block") == "true" {
		then = returnBlocked
	}
	return s.deleteNode(r.Context(), id, then)
}

func (s *Server) apiListBlocked(r *http.Request) (Page[Blocked], error) {
	return s.listBlocked(r.Context())
}

func (s *Server) apiUnblock(r *http.Request) error {
	return s.unblock(r.Context(), r.PathValue("id"))
}

func (s *Server) apiExpireNode(r *http.Request, id int64) (a Node, err error) {
	req, err := body[expireRequest](r)
	if err != nil {
		return a, err
	}
	switch {
	case req.Never && req.At != nil:
		return a, badRequest("\"at\" and \"never\" exclude each other")
	case req.Never:
		return s.expireNode(r.Context(), id, &noExpiry)
	case req.At != nil && req.At.IsZero():
		return a, badRequest("\"at\" is the zero time: leave it out for now, or say \"never\": true")
	}
	return s.expireNode(r.Context(), id, req.At)
}

func (s *Server) apiRenameNode(r *http.Request, id int64) (a Node, err error) {
	req, err := body[renameRequest](r)
	if err != nil {
		return a, err
	}
	return s.renameNode(r.Context(), id, req.Name)
}

func (s *Server) apiTagNode(r *http.Request, id int64) (a Node, err error) {
	req, err := body[tagsRequest](r)
	if err != nil {
		return a, err
	}
	return s.tagNode(r.Context(), id, req.Tags)
}

func (s *Server) apiMoveNode(r *http.Request, id int64) (a Node, err error) {
	req, err := body[ownerRequest](r)
	if err != nil {
		return a, err
	}
	return s.moveNode(r.Context(), id, req.User)
}

func (s *Server) apiApproveRoutes(r *http.Request, id int64) (a Node, err error) {
	req, err := body[routesRequest](r)
	if err != nil {
		return a, err
	}
	return s.approveRoutes(r.Context(), id, req.Approved)
}

func (s *Server) apiListRoutes(r *http.Request) (a Page[Route], err error) {
	w, err := pageRequestOf(r)
	if err != nil {
		return a, err
	}
	return s.listRoutes(r.Context(), w)
}

func (s *Server) apiListLogins(r *http.Request) (Page[Login], error) {
	return s.listLogins(r.Context())
}

func (s *Server) apiApproveLogin(r *http.Request) (a Node, err error) {
	req, err := body[ownerRequest](r)
	if err != nil {
		return a, err
	}
	return s.ApproveLogin(r.Context(), r.PathValue("id"), req.User)
}

func (s *Server) apiRefuseLogin(r *http.Request) error {
	return s.refuseLogin(r.Context(), r.PathValue("id"))
}

func (s *Server) apiPolicy(r *http.Request) (Policy, error) { return s.currentPolicy(r.Context()) }

// policyText reads a policy. The request body is the policy itself, so that a file can be sent
// unchanged.
func policyText(r *http.Request) ([]byte, error) {
	text, err := io.ReadAll(r.Body)
	if isTooLarge(err) || len(text) > policy.MaxSize {
		text := fmt.Sprintf("the policy is longer than %d bytes", policy.MaxSize)
		return nil, &operationError{http.StatusRequestEntityTooLarge, text}
	}
	if err != nil {
		return nil, badRequest("reading the policy: %v", err)
	}
	return text, nil
}

func (s *Server) apiSetPolicy(r *http.Request) (a Policy, err error) {
	text, err := policyText(r)
	if err != nil {
		return a, err
	}
	return s.SetPolicy(r.Context(), text)
}

func (s *Server) apiDeletePolicy(r *http.Request) error {
	return s.deletePolicy(r.Context())
}

func (s *Server) apiCheckPolicy(r *http.Request) (a Policy, err error) {
	text, err := policyText(r)
	if err != nil {
		return a, err
	}
	detail := verdictOnly
	if r.URL.Query().Get("explain") == "true" {
		detail = explained
	}
	return s.checkPolicy(r.Context(), text, detail)
}

func (s *Server) apiListTokens(r *http.Request) (a Page[Token], err error) {
	w, err := pageRequestOf(r)
	if err != nil {
		return a, err
	}
	return s.listTokens(r.Context(), w)
}

func (s *Server) apiCreateToken(r *http.Request) (a Token, err error) {
	req, err := body[tokenRequest](r)
	if err != nil {
		return a, err
	}
	return s.CreateToken(r.Context(), req.Name, req.Expiry)
}

func (s *Server) apiDeleteToken(r *http.Request, id int64) error {
	return s.deleteToken(r.Context(), id)
}
