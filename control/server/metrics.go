package server

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// The results of a registration, as label values.
const (
	resultRegistered = "registered"
	resultPending    = "pending" // waits for approval
	resultExpired    = "expired" // has to log in again
	resultRefused    = "refused"
)

var frameKinds = [numFrameKinds]string{
	firstFrame: "first", deltaFrame: "delta", aliveFrame: "keepalive", probeFrame: "probe",
}

// metrics are the metrics of a server.
//
//	ginnel_control_nodes                     nodes, by state: online, offline
//	ginnel_control_contested_nodes           nodes whose key two processes use
//	ginnel_control_policy_failing_tests      tests of the policy in force that fail
//	ginnel_control_streams                   open map streams
//	ginnel_control_channels                  open Noise connections, by state: registered, unregistered
//	ginnel_control_refused_channels_total    refused before or after the Noise handshake
//	ginnel_control_registrations_total       by result: registered, pending, expired, refused
//	ginnel_control_steps_total               steps published to streams
//	ginnel_control_frames_total              by kind: first, delta, keepalive, probe
//	ginnel_control_frame_bytes_total         bytes of those frames
//	ginnel_control_store_transactions_total  transactions written to the store
//	ginnel_control_store_errors_total        transactions that the store refused
type metrics struct {
	registry *prometheus.Registry

	streams       prometheus.Gauge
	refusedConns  prometheus.Counter
	registrations *prometheus.CounterVec
	steps         prometheus.Counter
	frames        [numFrameKinds]prometheus.Counter
	frameBytes    prometheus.Counter
	transactions  prometheus.Counter
	storeErrors   prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	auto := promauto.With(m.registry)
	one := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: "ginnel_control_" + name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return auto.NewCounterVec(prometheus.CounterOpts{Name: "ginnel_control_" + name, Help: help}, []string{label})
	}
	m.streams = auto.NewGauge(prometheus.GaugeOpts{Name: "ginnel_control_streams", Help: "Open map streams."})
	m.refusedConns = one("refused_channels_total", "Connections refused before or after the Noise handshake.")
	m.registrations = vec("registrations_total", "Answers to registrations.", "result")
	m.steps = one("steps_total", "Steps published to streams.")
	frames := vec("frames_total", "Frames written to streams.", "kind")
	for kind, name := range frameKinds {
		m.frames[kind] = frames.WithLabelValues(name)
	}
	m.frameBytes = one("frame_bytes_total", "Bytes of frames written to streams.")
	m.transactions = one("store_transactions_total", "Transactions written to the store.")
	m.storeErrors = one("store_errors_total", "Transactions that the store refused.")
	return m
}

// observe adds the metrics that are computed when they are collected.
func (m *metrics) observe(s *Server) {
	auto := promauto.With(m.registry)
	gauge := func(name, help, state string, f func() int) {
		auto.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ginnel_control_" + name, Help: help, ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(f()) })
	}
	gauge("nodes", "Nodes.", "online", func() int { online, _ := s.core.countNodes(); return online })
	gauge("nodes", "Nodes.", "offline", func() int { _, offline := s.core.countNodes(); return offline })
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ginnel_control_contested_nodes", Help: "Nodes whose key two processes use.",
	}, func() float64 { return float64(s.core.countDuplicateKeys()) })
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ginnel_control_policy_failing_tests", Help: "Tests of the policy in force that fail.",
	}, func() float64 { return float64(s.countFailingTests()) })
	gauge("channels", "Noise connections.", "registered", func() int {
		open, unregistered := s.noiseConns.counts()
		return max(open-unregistered, 0)
	})
	gauge("channels", "Noise connections.", "unregistered", func() int {
		_, unregistered := s.noiseConns.counts()
		return unregistered
	})
}

// countNodes counts the nodes of the latest snapshot.
func (c *core) countNodes() (online, offline int) {
	for _, n := range c.latest.Load().nodes {
		if n.online {
			online++
		} else {
			offline++
		}
	}
	return online, offline
}

// countDuplicateKeys counts the nodes of the latest snapshot whose key is used by two processes.
func (c *core) countDuplicateKeys() (number int) {
	for _, n := range c.latest.Load().nodes {
		if n.duplicateKey != nil {
			number++
		}
	}
	return number
}
