package node

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

// logoutTimeout bounds the wait of the API for the coordination server.
const logoutTimeout = 10 * time.Second

// serveShutdown ends the node. If the form value "logout" is "true", it ends the node's
// registration first.
func (a *localAPI) serveShutdown(w http.ResponseWriter, r *http.Request) {
	if !a.hasToken(r) {
		writeJSON(w, http.StatusUnauthorized, apiError{"this needs the token in the node's state directory"})
		return
	}
	if a.n.cfg.Shutdown == nil {
		writeJSON(w, http.StatusNotImplemented, apiError{"this node ends with its program"})
		return
	}
	if r.FormValue("logout") == "true" {
		ctx, cancel := context.WithTimeout(r.Context(), logoutTimeout)
		defer cancel()
		if a.n.member == nil {
			writeJSON(w, http.StatusConflict, apiError{"this node has no registration: its network has no coordination server"})
			return
		}
		if err := a.n.Logout(ctx); err != nil {
			a.n.resume()
			status := http.StatusBadGateway
			if errors.Is(err, ErrControlUnreachable) {
				status = http.StatusGatewayTimeout
			}
			writeJSON(w, status, apiError{"giving up the registration: " + err.Error()})
			return
		}
	}
	const done = "{}\n"
	// Without a length the response is chunked, and its end is written only after this function.
	w.Header().Set("Content-Length", strconv.Itoa(len(done)))
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, done)
	http.NewResponseController(w).Flush() // Shutdown may close the connection; an error means that the client has gone
	a.n.cfg.Shutdown()
}
