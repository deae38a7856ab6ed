package server

import (
	"encoding/json"
	"errors"
	"net/http"
)

// maxBody limits the body of every request, in bytes, except where a handler sets a lower limit.
const maxBody = 1 << 20

// mustJSON encodes a value whose type makes errors impossible.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("control/server: internal error: " + err.Error())
	}
	return b
}

// readJSON decodes the body of a request, whatever its Content-Type. If that fails, it answers the
// request and returns false.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(v)
	if err == nil {
		return true
	}
	status := http.StatusBadRequest
	if isTooLarge(err) {
		status = http.StatusRequestEntityTooLarge
	}
	http.Error(w, "reading the request: "+err.Error(), status)
	return false
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(mustJSON(v), '\n'))
}

func isTooLarge(err error) bool {
	_, ok := errors.AsType[*http.MaxBytesError](err)
	return ok
}
