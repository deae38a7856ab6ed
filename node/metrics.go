package node

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"ginnel/relay"
)

// metrics returns the registry behind /metrics. Values are read on each request.
func (a *localAPI) metrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		nodeCollector{a.n})
	return r
}

// nodeCollector makes metrics of the counters of a node's parts.
type nodeCollector struct{ n *Node }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ginnel_"+name, help, labels, nil)
}

var (
	descReady      = desc("ready", "1 if the mesh can be used.")
	descPeerRx     = desc("peer_received_bytes_total", "Bytes received from a peer, WireGuard's own included.", "peer")
	descPeerTx     = desc("peer_sent_bytes_total", "Bytes sent to a peer, WireGuard's own included.", "peer")
	descPeerDirect = desc("peer_direct", "1 if a peer is reached directly, 0 if over a relay or not at all.", "peer")
	descConns      = desc("proxy_connections_total", "Client connections of the proxies, by protocol.", "protocol")
	descOpen       = desc("proxy_connections_open", "Client connections of the proxies at present.")
	descProxied    = desc("proxy_bytes_total", "Payload carried by the proxies.", "direction")
	descDatagrams  = desc("proxy_datagrams_total", "Datagrams of UDP associations, by what became of them.", "result")
	descFailures   = desc("proxy_dial_failures_total", "Failed connections of the proxies, by reason.", "reason")
	descRefused    = desc("proxy_refused_total", "Clients of the proxies that were refused, by reason.", "reason")
	descTransport  = desc("transport_dropped_total", "Packets that the transport dropped, by reason.", "reason")
	descStack      = desc("stack_dropped_total", "Packets that the TCP/IP stack dropped, by reason.", "reason")
	descWireGuard  = desc("wireguard_dropped_total", "Packets and messages that WireGuard dropped, by reason.", "reason")
	descTCP        = desc("tcp_packets_total",
		"TCP packets with data to peers, by what became of them. Without BBR they are not counted.", "result")
	descTimeouts   = desc("tcp_timeouts_total", "Expiries of TCP's retransmission timers.")
	descRelay      = desc("relay_connected", "1 if there is a connection to a relay region.", "region", "name")
	descRelayDrops = desc("relay_dropped_total", "Packets that were not sent to a relay region.", "region", "name")
)

// Describe implements prometheus.Collector.
func (c nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descReady, descPeerRx, descPeerTx, descPeerDirect, descConns, descOpen,
		descProxied,
		descDatagrams, descFailures, descRefused, descTransport, descStack, descWireGuard, descTCP, descTimeouts,
		descRelay, descRelayDrops} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c nodeCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s := c.n.Status()
	gauge(descReady, flags[s.State == StateRunning])
	for _, p := range s.Peers {
		id := p.NodeKey.String() // names need not be unique
		count(descPeerRx, p.RxBytes, id)
		count(descPeerTx, p.TxBytes, id)
		gauge(descPeerDirect, flags[p.Path == PathDirect], id)
	}
	c.collectProxy(gauge, count)
	count(descDatagrams, c.n.dialer.foreignDatagrams.Load(), "foreign")
	for reason, n := range c.n.plane.conn.Status().Dropped {
		count(descTransport, n, reason)
	}
	d := c.n.plane.stack.Dropped()
	count(descStack, d.Filtered, "refused")
	count(descStack, d.Full, "queue_full")
	count(descStack, d.TooLong, "too_long")
	t := c.n.plane.stack.Recovery()
	count(descTCP, t.Packets, "sent")
	count(descTCP, t.Lost, "lost")
	count(descTCP, t.Retransmitted, "repeated")
	count(descTCP, t.Spurious, "repeated_needlessly")
	count(descTimeouts, t.Timeouts)
	w := c.n.plane.peers.dev.Dropped()
	count(descWireGuard, w.Unroutable, "unroutable")
	count(descWireGuard, w.Foreign, "foreign")
	count(descWireGuard, w.Bogus, "bogus")
	count(descWireGuard, w.NoRoom, "no_room")
	m := c.n.plane.netmap.Load()
	for _, r := range c.n.plane.pool.Status().Regions {
		id, name := strconv.Itoa(r.Region), regionName(&m.Relays, r.Region) // names need not be unique
		gauge(descRelay, flags[r.State == relay.RegionConnected], id, name)
		count(descRelayDrops, r.Drops, id, name)
	}
}

func (c nodeCollector) collectProxy(gauge func(*prometheus.Desc, float64, ...string),
	count func(*prometheus.Desc, uint64, ...string)) {
	p := c.n.ingress.proxy.Stats()
	count(descConns, p.SOCKS5, "socks5")
	count(descConns, p.SOCKS4, "socks4")
	count(descConns, p.HTTP, "http")
	gauge(descOpen, float64(p.OpenConnections))
	count(descProxied, p.BytesSent, "sent")
	count(descProxied, p.BytesReceived, "received")
	count(descDatagrams, p.DatagramsSent, "sent")
	count(descDatagrams, p.DatagramsReceived, "received")
	count(descDatagrams, p.DatagramsDropped, "dropped")
	f := p.DialFailures
	count(descFailures, f.Denied, "denied")
	count(descFailures, f.NetworkUnreachable, "network_unreachable")
	count(descFailures, f.HostUnreachable, "host_unreachable")
	count(descFailures, f.Refused, "refused")
	count(descFailures, f.TimedOut, "timed_out")
	count(descFailures, f.Other, "other")
	count(descRefused, p.AuthRefused, "auth")
	count(descRefused, p.HandshakesEvicted, "too_many_half_open")
	count(descRefused, p.HandshakesFailed, "handshake")
}

// flags are the values of gauges that are true or false.
var flags = map[bool]float64{true: 1, false: 0}
