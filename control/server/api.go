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
	serve        http.HandlerFunc
}

// operations returns all operations of the API. openapi.json describes each.
func (s *Server) operations() []operation {
	return []operation{
		{"GET", "users", answer(s.apiListUsers)},
		{"POST", "users", answer(s.apiCreateUser)},
		{"PATCH", "users/{id}", answer(withID(s.apiRenameUser))},
		{"DELETE", "users/{id}", noContent(withIDOnly(s.apiDeleteUser))},
		{"GET", "keys", answer(s.apiListKeys)},
		{"POST", "keys", answer(s.apiCreateKey)},
		{"POST", "keys/{id}/expire", answer(withID(s.apiExpireKey))},
		{"DELETE", "keys/{id}", noContent(withIDOnly(s.apiDeleteKey))},
		{"GET", "nodes", answer(s.apiListNodes)},
		{"GET", "nodes/{id}", answer(withID(s.apiNode))},
		{"DELETE", "nodes/{id}", noContent(withIDOnly(s.apiDeleteNode))},
		{"POST", "nodes/{id}/expire", answer(withID(s.apiExpireNode))},
		{"POST", "nodes/{id}/rename", answer(withID(s.apiRenameNode))},
		{"POST", "nodes/{id}/tags", answer(withID(s.apiTagNode))},
		{"POST", "nodes/{id}/move", answer(withID(s.apiMoveNode))},
		{"POST", "nodes/{id}/routes", answer(withID(s.apiApproveRoutes))},
		{"GET", "blocked", answer(s.apiListBlocked)},
		{"DELETE", "blocked/{id}", noContent(s.apiUnblock)},
		{"GET", "routes", answer(s.apiListRoutes)},
		{"GET", "logins", answer(s.apiListLogins)},
		{"POST", "logins/{id}/approve", answer(s.apiApproveLogin)},
		{"DELETE", "logins/{id}", noContent(s.apiRefuseLogin)},
		{"GET", "policy", answer(s.apiPolicy)},
		{"PUT", "policy", answer(s.apiSetPolicy)},
		{"DELETE", "policy", noContent(s.apiDeletePolicy)},
		{"POST", "policy/check", answer(s.apiCheckPolicy)},
		{"GET", "tokens", answer(s.apiListTokens)},
		{"POST", "tokens", answer(s.apiCreateToken)},
		{"DELETE", "tokens/{id}", noContent(withIDOnly(s.apiDeleteToken))},
	}
}

// apiRoutes serves the API and its OpenAPI document.
func (s *Server) apiRoutes() http.Handler {
	mux := http.NewServeMux()
	for _, op := range s.operations() {
		mux.HandleFunc(op.method+" "+apiRoot+op.path, op.serve)
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
	writeError(w, notFound("%s %s is not an operation of the API: see %sopenapi.json", r.Method, r.URL.Path, apiRoot))
}

// answer serves an operation whose result is sent as JSON.
func answer[T any](f func(r *http.Request) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if v, err := f(r); err != nil {
			writeError(w, err)
		} else {
			writeJSON(w, http.StatusOK, v)
		}
	}
}

// noContent serves an operation without a result.
func noContent(f func(r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if err := f(r); err != nil {
			writeError(w, err)
		} else {
			w.WriteHeader(http.StatusNoContent)
		}
	}
}

// withID passes the {id} of the path to f.
func withID[T any](f func(r *http.Request, id int64) (T, error)) func(r *http.Request) (T, error) {
	return func(r *http.Request) (v T, err error) {
		id, err := pathID(r)
		if err != nil {
			return v, err
		}
		return f(r, id)
	}
}

// withIDOnly is withID for an operation without a result.
func withIDOnly(f func(r *http.Request, id int64) error) func(r *http.Request) error {
	return func(r *http.Request) error {
		id, err := pathID(r)
		if err != nil {
			return err
		}
		return f(r, id)
	}
}

func pathID(r *http.Request) (int64, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id <= 0 {
		return 0, badRequest("%q is not a valid ID: use a number greater than 0", r.PathValue("id"))
	}
	return id, nil
}

// withToken serves h to requests that have a valid token.
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
			writeError(w, &operationError{http.StatusUnauthorized, "the API requires a valid token"})
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// body decodes the JSON body of a request. An empty body counts as {}.
func body[T any](r *http.Request) (v T, err error) {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil && !errors.Is(err, io.EOF) {
		if isTooLarge(err) {
			return v, &operationError{http.StatusRequestEntityTooLarge, "the request is too large"}
		}
		return v, badRequest("reading the request: %v", err)
	}
	return v, nil
}

// pageRequestOf reads which part of a list a request asks for.
func pageRequestOf(r *http.Request) (w pageRequest, err error) {
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

// apiError is the JSON answer to an operation that failed.
type apiError struct {
	Error string `json:"error"`
}

func writeError(w http.ResponseWriter, err error) {
	writeJSON(w, statusOf(err), apiError{err.Error()})
}

// The bodies of requests, except those in apitypes.go.
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
