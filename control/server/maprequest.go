package server

import (
	"context"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"ginnel/control"
)

// Limits of what a node may say about itself, because all other nodes receive it.
const (
	maxHostinfo  = 32 << 10 // bytes of JSON
	maxEndpoints = 64
	maxRoutes    = 256
)

// handleMap answers POST /machine/map (control specification, sections 5.1 to 5.4).
func (nc *noiseConn) handleMap(w http.ResponseWriter, r *http.Request) {
	var req control.MapRequest
	if !readJSON(w, r, &req) || !nc.supported(w, req.Version) {
		return
	}
	if h := req.Hostinfo; h != nil && (hostinfoTooLarge(h) || len(h.RoutableIPs) > maxRoutes) {
		http.Error(w, errHostinfo.Error(), http.StatusBadRequest)
		return
	}
	if req.Compress != "" && req.Compress != control.CompressZstd {
		http.Error(w, "unknown compression", http.StatusBadRequest)
		return
	}
	switch {
	case req.Stream:
		nc.handleStream(w, r, &req)
	case req.OmitPeers:
		nc.handleUpdate(w, r, &req)
	default:
		nc.handleFetch(w, r, &req)
	}
}

func hostinfoTooLarge(h *control.Hostinfo) bool { return len(mustJSON(h)) > maxHostinfo }

// nodeOf returns the node of a request. The request must come from the node's machine.
func (nc *noiseConn) nodeOf(t *tx, req *control.MapRequest) (*node, error) {
	n := t.nodeByKey(req.NodeKey)
	if n == nil || n.rec.Machine != nc.machine() {
		return nil, errNoNode
	}
	return n, nil
}

func (nc *noiseConn) handleStream(w http.ResponseWriter, r *http.Request, req *control.MapRequest) {
	s := newStream(nc.machine(), process{disco: req.DiscoKey, remote: r.RemoteAddr})
	for {
		before, wait, err := nc.beginStream(r.Context(), s, req)
		if err != nil {
			nc.refuse(w, err)
			return
		}
		if before == nil {
			break
		}
		if !nc.core.awaitTakeover(r.Context(), before, wait) {
			nc.refuse(w, errClosed)
			return
		}
	}
	nc.admitted()
	nc.core.metrics.streams.Inc()
	defer nc.core.metrics.streams.Dec()
	if err := nc.core.serveStream(r.Context(), w, s, req.Compress); err != nil {
		nc.log.Debug("stream ended", "node", s.id, "err", err)
	}
}

// beginStream begins a stream, unless it must wait. Then it returns the stream to wait for and the
// longest time to wait.
func (nc *noiseConn) beginStream(
	ctx context.Context, s *stream, req *control.MapRequest,
) (before *stream, wait time.Duration, err error) {
	err = nc.core.change(ctx, func(t *tx) error {
		n, err := nc.nodeOf(t, req)
		if err != nil {
			return err
		}
		s.id, s.earlier = n.rec.ID, nil
		if before, wait = nc.core.takeoverDelay(t, n, s); before != nil {
			return nil
		}
		nc.core.beginStream(t, s)
		n = t.nodes[s.id]
		scope := onlyUnknown
		if n.duplicateKey != nil && n.rec.Disco != req.DiscoKey {
			scope = everything // the stored state is the other process's
		}
		t.update(n, req, scope)
		return nil
	})
	return before, wait, err
}

func (nc *noiseConn) handleUpdate(w http.ResponseWriter, r *http.Request, req *control.MapRequest) {
	err := nc.core.change(r.Context(), func(t *tx) error {
		n, err := nc.nodeOf(t, req)
		if err == nil && !req.ReadOnly && !nc.core.fromOtherProcess(n, req.DiscoKey) {
			t.update(n, req, everything)
		}
		return err
	})
	if err != nil {
		nc.refuse(w, err)
		return
	}
	nc.admitted()
	w.WriteHeader(http.StatusOK)
}

// handleFetch answers a request for the current map in one frame.
func (nc *noiseConn) handleFetch(w http.ResponseWriter, r *http.Request, req *control.MapRequest) {
	s := &stream{endc: make(chan struct{})}
	err := nc.core.change(r.Context(), func(t *tx) error {
		n, err := nc.nodeOf(t, req)
		if err == nil {
			s.id = n.rec.ID
		}
		return err
	})
	if err != nil {
		nc.refuse(w, err)
		return
	}
	frame, _, err := nc.core.firstFrame(r.Context(), s, &clientState{id: s.id}, req.Compress)
	if err != nil {
		nc.refuse(w, err)
		return
	}
	w.Write(frame)
}

// updateScope says which fields of a map request are taken over.
type updateScope int

const (
	everything updateScope = iota
	// onlyUnknown takes over fields that have no stored value. It is for stream requests, which may
	// be older than a stored update (section 5.1).
	onlyUnknown
)

// update stores what a node says about itself. A node whose key has expired cannot change anything.
func (t *tx) update(n *node, req *control.MapRequest, scope updateScope) {
	if n.expired {
		return
	}
	rec := *n.rec
	if scope == everything || rec.Cap == 0 {
		rec.Cap = req.Version
	}
	if !req.DiscoKey.IsZero() && (scope == everything || rec.Disco.IsZero()) {
		rec.Disco = req.DiscoKey
	}
	if req.Endpoints != nil && (scope == everything || rec.Endpoints == nil) {
		rec.Endpoints = usableEndpoints(req.Endpoints)
	}
	if req.Hostinfo != nil && (scope == everything || rec.Hostinfo == nil) {
		t.takeHostinfo(&rec, req.Hostinfo)
		if n.duplicateKey != nil {
			rec.Label = n.rec.Label // otherwise it would alternate between two host names
		}
	}
	if !sameRecord(n.rec, &rec) {
		t.putNode(&rec)
	}
}

// takeHostinfo puts the Hostinfo of a request into a record. The label follows the host name unless
// an administrator has chosen it.
func (t *tx) takeHostinfo(rec *nodeRecord, h *control.Hostinfo) {
	next := *h
	if old := rec.Hostinfo; next.NetInfo == nil && old != nil {
		next.NetInfo = old.NetInfo // older clients send NetInfo only when it changes
	}
	next.RoutableIPs = maskedRoutes(next.RoutableIPs)
	renamed := rec.Hostinfo != nil && hostLabel(rec.Hostinfo.Hostname) != hostLabel(next.Hostname)
	rec.Hostinfo = &next
	if renamed && !rec.Given && next.Hostname != "" {
		rec.Label = t.labelOf(rec, next.Hostname)
	}
}

func maskedRoutes(routes []netip.Prefix) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range routes {
		if p.IsValid() && !slices.Contains(list, p.Masked()) {
			list = append(list, p.Masked())
		}
	}
	return list
}

// usableEndpoints drops endpoints that other nodes cannot reach and those beyond the limit. The
// result is not nil.
func usableEndpoints(list []netip.AddrPort) []netip.AddrPort {
	kept := make([]netip.AddrPort, 0, min(len(list), maxEndpoints))
	for _, ep := range list {
		a := ep.Addr()
		if ep.IsValid() && a.Zone() == "" && !(a.Is6() && a.IsLinkLocalUnicast()) && len(kept) < maxEndpoints {
			kept = append(kept, ep)
		}
	}
	return kept
}

// sameRecord compares the fields that an update can change.
func sameRecord(a, b *nodeRecord) bool {
	return a.Cap == b.Cap && a.Disco == b.Disco && a.Label == b.Label && slices.Equal(a.Endpoints, b.Endpoints) &&
		(a.Endpoints == nil) == (b.Endpoints == nil) && reflect.DeepEqual(a.Hostinfo, b.Hostinfo)
}
