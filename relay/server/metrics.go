package server

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"ginnel/relay/internal/derp"
)

// The values of the label reason: why the server refused a connection.
const (
	refusedRate      = "rate"      // more connections per second than accepted
	refusedFull      = "full"      // as many clients as allowed
	refusedClosing   = "closing"   // the server is shutting down
	refusedHandshake = "handshake" // no valid login in time
	refusedAdmission = "admission" // refused by the admission controller
)

// packetKinds are the values of the label kind for each class of packets. The other classes carry
// no packets.
var packetKinds = [...]string{derp.ClassData: "other", derp.ClassDisco: "disco"}

// traffic counts packets and bytes of frames of one kind.
type traffic struct{ packets, bytes prometheus.Counter }

func (t traffic) add(frames []byte) {
	t.packets.Add(float64(derp.CountFrames(frames)))
	t.bytes.Add(float64(len(frames)))
}

// serverMetrics are the counters of a server. Their names begin with ginnel_relay_. Bytes are those
// of DERP frames: packet, keys and frame header, without what TLS adds.
//
//	accepted_connections_total            DERP connections accepted, by transport (derp, websocket)
//	refused_connections_total             connections turned away, by reason
//	displaced_connections_total           connections ended for other addresses while it was full
//	connections                           DERP connections that are open
//	clients                               keys reachable, by where: local, remote (through the mesh)
//	home_connections                      connections of clients that have this relay as their home
//	not_ideal_connections                 connections of clients that wanted another node of the region
//	duplicate_clients                     keys with more than one connection
//	watchers                              mesh peers that follow the presence of clients
//	received_packets_total, _bytes_total  from clients, by kind (disco, other)
//	sent_packets_total, _bytes_total      to clients, by kind
//	dropped_packets_total, _bytes_total   by reason and kind
//	forwarded_packets_total               through the mesh, by direction (in, out)
//	queued_bytes                          memory of all queues
//	pings_total, _pongs_total             Ping frames received, Pong frames sent
//	peer_gone_frames_total                sent, by reason (disconnected, not_here)
//	unknown_frames_total                  frames skipped
//	home_moves_total                      clients that made it their home or left it, by direction
//	write_timeouts_total                  connections closed because the client took no bytes
//	throttled_seconds_total               time during which clients over their rate were not read from
//	stun_requests_total                   datagrams, by disposition (success, not_stun, ...)
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
	m.accepted = vec("accepted_connections_total", "DERP connections accepted.", "transport")
	m.refused = vec("refused_connections_total", "Connections turned away.", "reason")
	m.displaced = one("displaced_connections_total", "Connections ended for other addresses while the server was full.")
	forwards := vec("forwarded_packets_total", "Packets forwarded through the mesh.", "direction")
	m.forwards.in, m.forwards.out = forwards.WithLabelValues("in"), forwards.WithLabelValues("out")
	m.pings = one("pings_total", "Ping frames received.")
	m.pongs = one("pongs_total", "Pong frames sent.")
	m.peerGone = vec("peer_gone_frames_total", "PeerGone frames sent.", "reason")
	m.unknown = one("unknown_frames_total", "Frames skipped.")
	m.homeMoves = vec("home_moves_total", "Clients that made this relay their home or left it.", "direction")
	m.timeouts = one("write_timeouts_total", "Connections closed because the client took no bytes for too long.")
	m.throttled = one("throttled_seconds_total", "Time during which clients over their rate were not read from.")
	m.stun = vec("stun_requests_total", "Datagrams that came to the STUN port.", "disposition")
	m.home = gauge("home_connections", "Connections of clients that have this relay as their home.")
	m.notIdeal = gauge("not_ideal_connections", "Connections of clients that wanted another node of the region.")

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
			reason := r.String()
			m.drops[r][i] = traffic{dropPackets.WithLabelValues(reason, kind), dropBytes.WithLabelValues(reason, kind)}
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
	local, remote := prometheus.Labels{"where": "local"}, prometheus.Labels{"where": "remote"}
	count := s.registry.count
	gauge("connections", "DERP connections that are open.", nil, s.countConns)
	gauge("clients", clients, local, func() int { return count().local })
	gauge("clients", clients, remote, func() int { return count().remote })
	gauge("duplicate_clients", "Keys with more than one connection.", nil, func() int { return count().duplicate })
	gauge("watchers", "Mesh peers that follow the presence of clients.", nil, func() int { return count().watchers })
	gauge("queued_bytes", "Memory of all queues.", nil, func() int { return int(s.memory.all.InUse()) })
}

// Sent implements derp.FrameCounter.
func (m *serverMetrics) Sent(c derp.Class, frames []byte) {
	if int(c) < len(m.sentTo) {
		m.sentTo[c].add(frames)
	}
}

// Dropped implements derp.FrameCounter.
func (m *serverMetrics) Dropped(c derp.Class, reason derp.DropReason, frames []byte) {
	if int(c) < len(packetKinds) {
		m.drops[reason][c].add(frames)
	}
}
