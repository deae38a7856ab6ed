package node

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

// logoutTimeout bounds what the API waits for the coordination server.
const logoutTimeout = 10 * time.Second

// serveShutdown ends the node, once it has given up its registration if the form value "logout" is
// "true".
func (n *Node) serveShutdown(w http.ResponseWriter, r *http.Request) {
	if !n.hasToken(r) {
		writeJSON(w, http.StatusUnauthorized, apiError{"this needs the token in the node's state directory"})
		return
	}
	if n.cfg.Shutdown == nil {
		writeJSON(w, http.StatusNotImplemented, apiError{"this node ends with its program"})
		return
	}
	if r.FormValue("logout") == "true" {
		ctx, cancel := context.WithTimeout(r.Context(), logoutTimeout)
		defer cancel()
		if n.member == nil {
			writeJSON(w, http.StatusConflict, apiError{"this node has no registration: its network has no coordination server"})
			return
		}
		if err := n.Logout(ctx); err != nil {
			n.resume()
			status := http.StatusBadGateway
			if errors.Is(err, ErrControlUnreachable) {
				status = http.StatusGatewayTimeout
			}
			writeJSON(w, status, apiError{"giving up the registration: " + err.Error()})
			return
		}
	}
	const done = "{}\n"
	w.Header().Set("Content-Length", strconv.Itoa(len(done))) // else there would be more to send behind it
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, done)
	http.NewResponseController(w).Flush() // before the connection goes with the node; an error is the client's
	n.cfg.Shutdown()
}
