package node

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"ginnel/internal/key"
)

// WireGuard takes its configuration as text (https://www.wireguard.com/xplatform/). This file writes and reads it and is
// the only one to do so. The text holds keys: it is never logged.

// wireguard is the device and what it was told. A peer that takes part in discovery is added to the device only when
// there is something to send to it or it shows itself: a network may have thousands, and each costs the device two
// goroutines and its queues.
type wireguard struct {
	dev    *device.Device
	active sync.Map // key.NodePublic to struct{}: peers that the device has; read for each datagram
	recent atomic.Pointer[sessionsAt]

	mu      sync.Mutex // held while the device is told
	peers   map[key.NodePublic]Peer
	dormant map[key.NodePublic]*Peer // of the map, unknown to the device
	wanted  map[key.NodePublic]bool  // peers that this node has begun to speak with, and not they with us
	unsure  bool                     // the device refused a change, so what it knows is not known
}

// configure makes peers, which must not change any more, the whole set. It tells the device only what changed.
func (w *wireguard) configure(peers []Peer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	next, dormant := make(map[key.NodePublic]Peer), make(map[key.NodePublic]*Peer)
	for i := range peers {
		p := &peers[i]
		if _, active := w.peers[p.Key]; active || p.Plain {
			next[p.Key] = *p
		} else {
			dormant[p.Key] = p
		}
	}
	return w.replace(next, dormant)
}

// wake makes sure that the device knows a peer of the map. It reports whether it did not.
func (w *wireguard) wake(k key.NodePublic) (woken bool) {
	if _, ok := w.active.Load(k); ok {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.dormant[k]
	if !ok {
		return false
	}
	var text strings.Builder
	writePeer(&text, p, false)
	if w.set(text.String()) != nil {
		return false // the device is closed
	}
	delete(w.dormant, k)
	w.peers[k] = *p
	w.active.Store(k, struct{}{})
	return true
}

// want is wake for a peer that we begin to speak with. If both sides began anew whatever they began, neither would ever be
// answered.
func (w *wireguard) want(k key.NodePublic) (woken bool) {
	if !w.wake(k) {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wanted == nil {
		w.wanted = make(map[key.NodePublic]bool)
	}
	w.wanted[k] = true
	return true
}

// replace makes the device know exactly next.
func (w *wireguard) replace(next map[key.NodePublic]Peer, dormant map[key.NodePublic]*Peer) error {
	var text strings.Builder
	if w.unsure {
		text.WriteString("replace_peers=true\n")
		w.peers = nil
	}
	for k := range w.peers {
		if _, ok := next[k]; !ok {
			w.active.Delete(k)
			delete(w.wanted, k)
			fmt.Fprintf(&text, "public_key=%s\nremove=true\n", hexKey(k))
		}
	}
	var plain strings.Builder
	for _, p := range next {
		old, known := w.peers[p.Key]
		if known && old.Plain != p.Plain {
			// Whether WireGuard pins the endpoint is decided when a peer is made.
			fmt.Fprintf(&text, "public_key=%s\nremove=true\n", hexKey(p.Key))
			known = false
		}
		if !known || changed(&old, &p) {
			writePeer(&text, &p, known)
		}
		// A plain peer's endpoint is set after the peer exists: see openData.
		if ap, ok := p.Endpoint.addrPort(); ok && p.Plain && (!known || old.Endpoint != p.Endpoint) {
			fmt.Fprintf(&plain, "public_key=%s\nupdate_only=true\nendpoint=%s\n", hexKey(p.Key), ap)
		}
	}
	w.unsure = true
	if err := w.set(text.String()); err != nil {
		return err
	}
	if err := w.set(plain.String()); err != nil {
		return err
	}
	w.unsure = false
	for _, p := range next {
		w.active.Store(p.Key, struct{}{})
		old, known := w.peers[p.Key]
		switch {
		case known && restarted(&old, &p):
			w.renew(p.Key)
		case known && w.wanted[p.Key] && old.Region == 0 && p.Region != 0 && w.waits(p.Key):
			w.again(p.Key) // what was sent before had nowhere to go
		}
	}
	w.peers, w.dormant = next, dormant
	return nil
}

// waits reports whether a peer that somebody wants to speak with has not answered yet.
func (w *wireguard) waits(k key.NodePublic) bool { return unanswered(w.sessions(), k) }

// waited is waits as of a moment ago, for those who ask often. Whoever begins a handshake anew has to ask waits: that undoes
// one that has come about since.
func (w *wireguard) waited(k key.NodePublic) bool { return unanswered(w.recentSessions(), k) }

func unanswered(all map[key.NodePublic]session, k key.NodePublic) bool {
	s, ok := all[k]
	return ok && s.handshake.IsZero()
}

// recentSessions is sessions of a moment ago, for those who ask often.
func (w *wireguard) recentSessions() map[key.NodePublic]session {
	if r := w.recent.Load(); r != nil && time.Since(r.at) < sessionsAge {
		return r.all
	}
	r := &sessionsAt{at: time.Now(), all: w.sessions()}
	w.recent.Store(r)
	return r.all
}

// sessionsAge is how old what recentSessions returns may be.
const sessionsAge = 20 * time.Millisecond

// sessionsAt is what the device said at some time. It does not change.
type sessionsAt struct {
	at  time.Time
	all map[key.NodePublic]session
}

// restarted reports whether the peer has lost its memory, and with it its session: a node makes a new disco key whenever
// it starts. WireGuard alone would notice only when nothing has come back for 15 s.
func restarted(old, p *Peer) bool {
	return !old.Disco.IsZero() && !p.Disco.IsZero() && old.Disco != p.Disco
}

// again sends the beginning of a handshake anew, without the five seconds that WireGuard would wait.
func (w *wireguard) again(k key.NodePublic) {
	if p := w.dev.LookupPeer(device.NoisePublicKey(k)); p != nil {
		p.ExpireCurrentKeypairs()
		p.SendHandshakeInitiation(false)
	}
}

// renew has the next packet to a peer wait for a new session. What comes under the old one is still taken.
func (w *wireguard) renew(k key.NodePublic) {
	if p := w.dev.LookupPeer(device.NoisePublicKey(k)); p != nil {
		p.ExpireCurrentKeypairs()
	}
}

// changed reports whether the device has to be told of p anew.
func changed(old, p *Peer) bool {
	return !slices.Equal(old.Addresses, p.Addresses) || old.PresharedKey != p.PresharedKey || old.Keepalive != p.Keepalive
}

// writePeer writes one peer. Those that take part in discovery are created with their endpoint, which stands for the
// peer and is pinned; plain ones without, so that they can roam.
func writePeer(b *strings.Builder, p *Peer, known bool) {
	fmt.Fprintf(b, "public_key=%s\n", hexKey(p.Key))
	switch {
	case known:
		b.WriteString("update_only=true\n")
	case !p.Plain:
		fmt.Fprintf(b, "endpoint=%s\n", hexKey(p.Key))
	}
	psk := p.PresharedKey.Raw()
	fmt.Fprintf(b, "preshared_key=%s\n", hex.EncodeToString(psk[:]))
	b.WriteString("replace_allowed_ips=true\n")
	for _, prefix := range p.Addresses {
		fmt.Fprintf(b, "allowed_ip=%s\n", prefix.Masked())
	}
	fmt.Fprintf(b, "persistent_keepalive_interval=%d\n", int(p.Keepalive/time.Second))
}

// setEndpoint moves a plain peer.
func (w *wireguard) setEndpoint(k key.NodePublic, ap netip.AddrPort) error {
	return w.set(fmt.Sprintf("public_key=%s\nupdate_only=true\nendpoint=%s\n", hexKey(k), ap))
}

// setKey gives the device its identity.
func (w *wireguard) setKey(k key.NodePrivate) error {
	raw := k.Raw()
	return w.set("private_key=" + hex.EncodeToString(raw[:]) + "\n")
}

func (w *wireguard) set(text string) error {
	if text == "" {
		return nil
	}
	if err := w.dev.IpcSet(text); err != nil {
		return fmt.Errorf("configuring WireGuard: %w", err)
	}
	return nil
}

func hexKey(k key.NodePublic) string { return hex.EncodeToString(k[:]) }

// session is what the device knows of a peer.
type session struct {
	endpoint  string // as written by configure, or where a plain peer was last heard from
	handshake time.Time
	rx, tx    uint64 // bytes
}

// sessions asks the device about all peers.
func (w *wireguard) sessions() map[key.NodePublic]session {
	text, err := w.dev.IpcGet()
	if err != nil {
		return nil // the device is closed
	}
	all := make(map[key.NodePublic]session)
	var current key.NodePublic
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		if name == "public_key" {
			b, err := hex.DecodeString(value)
			if err != nil || len(b) != key.Size {
				return all
			}
			current = key.NodePublic(b)
			all[current] = session{}
			continue
		}
		if s, ok := all[current]; ok {
			s.read(name, value)
			all[current] = s
		}
	}
	return all
}

func (s *session) read(name, value string) {
	n, _ := strconv.ParseUint(value, 10, 64)
	switch name {
	case "endpoint":
		s.endpoint = value
	case "last_handshake_time_sec":
		if n > 0 {
			s.handshake = time.Unix(int64(n), 0)
		}
	case "last_handshake_time_nsec":
		if !s.handshake.IsZero() {
			s.handshake = s.handshake.Add(time.Duration(n))
		}
	case "rx_bytes":
		s.rx = n
	case "tx_bytes":
		s.tx = n
	}
}

// deviceLogger passes what WireGuard says to log, at the debug level: its errors are about single packets.
func deviceLogger(log *slog.Logger) *device.Logger {
	if !log.Enabled(context.Background(), slog.LevelDebug) {
		return &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf}
	}
	say := func(format string, args ...any) {
		log.Debug("WireGuard", "text", fmt.Sprintf(format, args...))
	}
	return &device.Logger{Verbosef: say, Errorf: say}
}
