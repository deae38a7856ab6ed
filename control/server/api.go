package server

import (
	_ "embed"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const apiRoot = "/api/v1/"

//go:embed openapi.json
var openAPI []byte

// operation is one method on one path of the API.
type operation struct {
	method, path string
	serve        func(r *http.Request) (answer any, err error)
}

// operations are all there are; openapi.json describes each.
func (s *Server) operations() []operation {
	return []operation{
		{"GET", "users", s.apiListUsers},
		{"POST", "users", s.apiCreateUser},
		{"PATCH", "users/{id}", s.apiRenameUser},
		{"DELETE", "users/{id}", numbered(s.apiDeleteUser)},
		{"GET", "keys", s.apiListKeys},
		{"POST", "keys", s.apiCreateKey},
		{"POST", "keys/{id}/expire", numbered(s.apiExpireKey)},
		{"DELETE", "keys/{id}", numbered(s.apiDeleteKey)},
		{"GET", "nodes", s.apiListNodes},
		{"GET", "nodes/{id}", numbered(s.apiNode)},
		{"DELETE", "nodes/{id}", numbered(s.apiDeleteNode)},
		{"POST", "nodes/{id}/expire", numbered(s.apiExpireNode)},
		{"POST", "nodes/{id}/rename", numbered(s.apiRenameNode)},
		{"POST", "nodes/{id}/tags", numbered(s.apiTagNode)},
		{"POST", "nodes/{id}/move", numbered(s.apiMoveNode)},
		{"POST", "nodes/{id}/routes", numbered(s.apiApproveRoutes)},
		{"GET", "blocked", s.apiListBlocked},
		{"DELETE", "blocked/{id}", s.apiUnblock},
		{"GET", "routes", s.apiListRoutes},
		{"GET", "logins", s.apiListLogins},
		{"POST", "logins/{id}/approve", s.apiApproveLogin},
		{"DELETE", "logins/{id}", s.apiRefuseLogin},
		{"GET", "policy", s.apiPolicy},
		{"PUT", "policy", s.apiSetPolicy},
		{"DELETE", "policy", s.apiDeletePolicy},
		{"POST", "policy/check", s.apiCheckPolicy},
		{"GET", "tokens", s.apiListTokens},
		{"POST", "tokens", s.apiCreateToken},
		{"DELETE", "tokens/{id}", numbered(s.apiDeleteToken)},
	}
}

// apiRoutes serves the API and its description.
func (s *Server) apiRoutes() http.Handler {
	mux := http.NewServeMux()
	for _, op := range s.operations() {
		mux.HandleFunc(op.method+" "+apiRoot+op.path, op.handle)
	}
	mux.HandleFunc("GET "+apiRoot+"openapi.json", handleOpenAPI)
	mux.HandleFunc(apiRoot, handleNoOperation)
	return mux
}

func handleOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Write(openAPI)
}

func handleNoOperation(w http.ResponseWriter, r *http.Request) {
	writeError(w, notFound("%s %s is no operation of the API: see %sopenapi.json", r.Method, r.URL.Path, apiRoot))
}

func (op operation) handle(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	answer, err := op.serve(r)
	switch {
	case err != nil:
		writeError(w, err)
	case answer == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		writeJSON(w, http.StatusOK, answer)
	}
}

// numbered adds the number in the path.
func numbered(f func(r *http.Request, id int64) (any, error)) func(r *http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
		if err != nil || id <= 0 {
			return nil, badRequest("%q is not a number", r.PathValue("id"))
		}
		return f(r, id)
	}
}

// withToken lets only those pass who have a token.
func (s *Server) withToken(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		valid, err := false, error(nil)
		if ok && strings.HasPrefix(secret, tokenPrefix) {
			valid, err = s.tokenValid(r.Context(), secret)
		}
		switch {
		case err != nil:
			writeError(w, err)
		case !valid:
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeError(w, &refusal{http.StatusUnauthorized, "the API wants a token that is valid"})
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// body reads the document that comes with a request; an empty one is as good as {}.
func body[T any](r *http.Request) (v T, err error) {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil && !errors.Is(err, io.EOF) {
		if isTooLarge(err) {
			return v, &refusal{http.StatusRequestEntityTooLarge, "the request is too large"}
		}
		return v, badRequest("reading the request: %v", err)
	}
	return v, nil
}

// windowOf reads which part of a list is asked for.
func windowOf(r *http.Request) (w window, err error) {
	q := r.URL.Query()
	if v := q.Get("after"); v != "" {
		if w.after, err = strconv.ParseInt(v, 10, 64); err != nil {
			return w, badRequest("after=%s is not a number", v)
		}
	}
	if v := q.Get("limit"); v != "" {
		if w.limit, err = strconv.Atoi(v); err != nil || w.limit < 1 || w.limit > maxPage {
			return w, badRequest("limit=%s is not a number from 1 to %d", v, maxPage)
		}
	}
	return w, nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(mustJSON(v), '\n'))
}

// apiError is the answer to an operation that was not done.
type apiError struct {
	Error string `json:"error"`
}

func writeError(w http.ResponseWriter, err error) {
	writeJSON(w, statusOf(err), apiError{err.Error()})
}

// The requests of the operations, as far as they are not named in apitypes.go.
type (
	userRequest struct {
		Name        string `json:"name"`
		DisplayName string `json:"display_name"`
	}
	expireRequest struct {
		At    *time.Time `json:"at"` // nil: now
		Never bool       `json:"never"`
	}
	renameRequest struct {
		Name string `json:"name"`
	}
	tagsRequest struct {
		Tags []string `json:"tags"`
	}
	ownerRequest struct {
		User string `json:"user"`
	}
	routesRequest struct {
		Approved []netip.Prefix `json:"approved"`
	}
	tokenRequest struct {
		Name   string    `json:"name"`
		Expiry time.Time `json:"expiry"`
	}
)
