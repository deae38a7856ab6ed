package server

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"ginnel/relay/internal/derp"
)

// Why the server refused a connection, as the metrics name it.
const (
	refusedRate      = "rate"      // more connections a second than accepted
	refusedFull      = "full"      // as many clients as allowed
	refusedClosing   = "closing"   // shutting down
	refusedHandshake = "handshake" // no proper login in time
	refusedAdmission = "admission" // not admitted by the admission controller
)

// packetKinds are the values of the label kind, by the class of the packets. The other classes
// carry none.
var packetKinds = [...]string{derp.ClassData: "other", derp.ClassDisco: "disco"}

// traffic counts packets and bytes of frames of one kind.
type traffic struct{ packets, bytes prometheus.Counter }

func (t traffic) add(frames []byte) {
	t.packets.Add(float64(derp.CountFrames(frames)))
	t.bytes.Add(float64(len(frames)))
}

// serverMetrics are the counters of a server. Bytes are those of DERP frames: packet, keys and
// frame header, without what TLS adds.
//
//	ginnel_relay_accepted_connections_total        DERP connections that began, by transport (derp, websocket)
//	ginnel_relay_refused_connections_total         connections turned away, by reason
//	ginnel_relay_displaced_connections_total       connections that ended for those of other addresses while the server was full
//	ginnel_relay_connections                       DERP connections that are open
//	ginnel_relay_clients                           keys reachable, by where: local (connected here), remote (through the mesh)
//	ginnel_relay_home_connections                  connections of clients whose home this is
//	ginnel_relay_not_ideal_connections             connections of clients that would rather use another node
//	ginnel_relay_duplicate_clients                 keys with more than one connection
//	ginnel_relay_watchers                          mesh peers that watch
//	ginnel_relay_received_packets_total, _bytes_total  from clients, by kind (disco, other)
//	ginnel_relay_sent_packets_total, _bytes_total      to clients, by kind
//	ginnel_relay_dropped_packets_total, _bytes_total   by reason and kind
//	ginnel_relay_forwarded_packets_total           through the mesh, by direction (in, out)
//	ginnel_relay_queued_bytes                      memory of all queues
//	ginnel_relay_pings_total, _pongs_total         Ping frames received, Pong frames sent
//	ginnel_relay_peer_gone_frames_total            sent, by reason (disconnected, not_here)
//	ginnel_relay_unknown_frames_total              frames skipped
//	ginnel_relay_home_moves_total                  clients that made this their home or left, by direction (in, out)
//	ginnel_relay_write_timeouts_total              connections cut because the client took nothing for too long
//	ginnel_relay_throttled_seconds_total           time for which clients over their rate were not read from
//	ginnel_relay_stun_requests_total               by disposition (success, not_stun, read_error, write_error)
type serverMetrics struct {
	registry *prometheus.Registry

	accepted  *prometheus.CounterVec
	refused   *prometheus.CounterVec
	displaced prometheus.Counter
	received  [len(packetKinds)]traffic
	sentTo    [len(packetKinds)]traffic
	drops     [derp.NumDropReasons][len(packetKinds)]traffic
	forwards  struct{ in, out prometheus.Counter }
	pings     prometheus.Counter
	pongs     prometheus.Counter
	peerGone  *prometheus.CounterVec
	unknown   prometheus.Counter
	homeMoves *prometheus.CounterVec
	timeouts  prometheus.Counter
	throttled prometheus.Counter
	stun      *prometheus.CounterVec
	home      prometheus.Gauge
	notIdeal  prometheus.Gauge
}

func newServerMetrics() *serverMetrics {
	m := &serverMetrics{registry: prometheus.NewRegistry()}
	auto := promauto.With(m.registry)
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return auto.NewCounterVec(prometheus.CounterOpts{Name: "ginnel_relay_" + name, Help: help}, labels)
	}
	one := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: "ginnel_relay_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return auto.NewGauge(prometheus.GaugeOpts{Name: "ginnel_relay_" + name, Help: help})
	}
	m.accepted = vec("accepted_connections_total", "DERP connections that began.", "transport")
	m.refused = vec("refused_connections_total", "Connections turned away.", "reason")
	m.displaced = one("displaced_connections_total", "Connections that ended for those of other addresses.")
	forwards := vec("forwarded_packets_total", "Packets that crossed the mesh.", "direction")
	m.forwards.in, m.forwards.out = forwards.WithLabelValues("in"), forwards.WithLabelValues("out")
	m.pings = one("pings_total", "Ping frames received.")
	m.pongs = one("pongs_total", "Pong frames sent.")
	m.peerGone = vec("peer_gone_frames_total", "PeerGone frames sent.", "reason")
	m.unknown = one("unknown_frames_total", "Frames skipped.")
	m.homeMoves = vec("home_moves_total", "Clients that made this relay their home, or no longer.", "direction")
	m.timeouts = one("write_timeouts_total", "Connections cut because the client took nothing for too long.")
	m.throttled = one("throttled_seconds_total", "Time for which clients over their rate were not read from.")
	m.stun = vec("stun_requests_total", "Datagrams to the STUN port.", "disposition")
	m.home = gauge("home_connections", "Connections of clients whose home this is.")
	m.notIdeal = gauge("not_ideal_connections", "Connections of clients that would rather use another node.")

	packets := vec("received_packets_total", "Packets from clients.", "kind")
	bytes := vec("received_bytes_total", "Bytes of frames with packets from clients.", "kind")
	sentPackets := vec("sent_packets_total", "Packets to clients.", "kind")
	sentBytes := vec("sent_bytes_total", "Bytes of frames with packets to clients.", "kind")
	dropPackets := vec("dropped_packets_total", "Packets dropped.", "reason", "kind")
	dropBytes := vec("dropped_bytes_total", "Bytes of frames with packets dropped.", "reason", "kind")
	for i, kind := range packetKinds {
		m.received[i] = traffic{packets.WithLabelValues(kind), bytes.WithLabelValues(kind)}
		m.sentTo[i] = traffic{sentPackets.WithLabelValues(kind), sentBytes.WithLabelValues(kind)}
		for r := range derp.NumDropReasons {
			m.drops[r][i] = traffic{dropPackets.WithLabelValues(r.String(), kind), dropBytes.WithLabelValues(r.String(), kind)}
		}
	}
	return m
}

// observe registers the gauges that are read from the server's state.
func (m *serverMetrics) observe(s *Server) {
	auto := promauto.With(m.registry)
	gauge := func(name, help string, labels prometheus.Labels, value func() int) {
		opts := prometheus.GaugeOpts{Name: "ginnel_relay_" + name, Help: help, ConstLabels: labels}
		auto.NewGaugeFunc(opts, func() float64 { return float64(value()) })
	}
	const clients = "Keys that can be reached."
	gauge("connections", "DERP connections that are open.", nil, s.countConns)
	gauge("clients", clients, prometheus.Labels{"where": "local"}, func() int { return s.registry.count().local })
	gauge("clients", clients, prometheus.Labels{"where": "remote"}, func() int { return s.registry.count().remote })
	gauge("duplicate_clients", "Keys with more than one connection.", nil, func() int { return s.registry.count().duplicate })
	gauge("watchers", "Mesh peers that watch.", nil, func() int { return s.registry.count().watchers })
	gauge("queued_bytes", "Memory of all queues.", nil, func() int { return int(s.memory.all.InUse()) })
}

// Sent implements ledger.
func (m *serverMetrics) Sent(c derp.Class, frames []byte) {
	if int(c) < len(m.sentTo) {
		m.sentTo[c].add(frames)
	}
}

// Dropped implements ledger.
func (m *serverMetrics) Dropped(c derp.Class, reason derp.DropReason, frames []byte) {
	if int(c) < len(packetKinds) {
		m.drops[reason][c].add(frames)
	}
}
