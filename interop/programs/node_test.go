package programs

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"testing"
	"time"
)

// node is a member of a mesh, ours or tailscaled.
type node interface {
	// machine returns the host that the node runs on.
	machine() *host
	// up starts the program and waits until the mesh is usable. Without a key the node must return
	// with its old identity.
	up(server, key string)
	// program returns the running process.
	program() *process
	// dialer returns a function that connects to the node's proxy.
	dialer() func(ctx context.Context) (net.Conn, error)
	// address returns the node's IPv4 address in the mesh.
	address() netip.Addr
	// knows reports whether a peer is in the node's map.
	knows(peer string) bool
	// sees returns whether a peer is connected to the server, as the node's status command shows
	// it.
	sees(peer string) presence
	// path returns how the node reaches a peer: "relay", "direct", or an error text.
	path(peer string) string
}

// presence is what a node shows about a peer.
type presence string

const (
	online  presence = "online"
	offline presence = "offline"
	unknown presence = "unknown"
)

// fetchLimit bounds one request, including the time to find a path through the mesh.
const fetchLimit = 10 * time.Second

// fetch gets a page through a node's SOCKS5 proxy.
func fetch(n node, host, path string) (string, error) {
	return fetchBy("socks5h", fetchLimit, n, host, path)
}

func fetchWithin(limit time.Duration, n node, host, path string) (string, error) {
	return fetchBy("socks5h", limit, n, host, path)
}

// fetchBy gets a page through the node's proxy by the protocol scheme. The proxy resolves the name.
func fetchBy(scheme string, limit time.Duration, n node, host, path string) (string, error) {
	return get(scheme, limit, n, fmt.Sprintf("http://%s:%d%s", host, servicePort, path))
}

// get gets a page of any URL.
func get(scheme string, limit time.Duration, n node, page string) (string, error) {
	dial := n.dialer()
	client := &http.Client{Timeout: limit, Transport: &http.Transport{
		DisableKeepAlives: true,
		Proxy:             http.ProxyURL(&url.URL{Scheme: scheme, Host: "proxy.invalid"}),
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}
	r, err := client.Get(page)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s: %s", r.Status, b)
	}
	return string(b), err
}

// mustReach checks that one node reaches the service of another at the first attempt.
func mustReach(t *testing.T, from, to node, name string) {
	t.Helper()
	begun := time.Now()
	want := to.machine().name
	if got, err := fetch(from, name, "/"); got != want || err != nil {
		t.Fatalf("%s gets http://%s: %q, %v, want %q", from.machine().name, name, got, err, want)
	}
	t.Logf("%s reaches http://%s in %v", from.machine().name, name, time.Since(begun).Round(time.Millisecond))
}

// awaitReachable waits until one node reaches another again.
func awaitReachable(t *testing.T, from, to node) {
	t.Helper()
	want := to.machine().name
	took := eventually(t, from.machine().name+" reaches "+want+" again", func() bool {
		got, err := fetchWithin(2*time.Second, from, want, "/")
		return got == want && err == nil
	})
	t.Logf("%s reaches %s again after %v", from.machine().name, want, took.Round(time.Millisecond))
}

// fetchBulk checks that bulk data arrive unchanged.
func fetchBulk(t *testing.T, from, to node) {
	t.Helper()
	begun := time.Now()
	name := to.machine().name
	got, err := fetch(from, name, "/bulk")
	if got != bulkText(name) || err != nil {
		t.Fatalf("%s fetches bulk from %s: %d bytes, %v", from.machine().name, name, len(got), err)
	}
	t.Logf("%s has %d bytes of %s in %v", from.machine().name, len(got), name, time.Since(begun).Round(time.Millisecond))
}

// awaitPath waits until one node reaches the other by this kind of path.
func awaitPath(t *testing.T, path string, from, to node) {
	t.Helper()
	var got string
	name := to.machine().name
	defer func() {
		if got != path {
			t.Errorf("%s reaches %s: %s, want %s", from.machine().name, name, got, path)
		}
	}()
	took := eventually(t, fmt.Sprintf("%s reaches %s: %s", from.machine().name, name, path), func() bool {
		got = from.path(name)
		return got == path
	})
	t.Logf("%s reaches %s: %s after %v", from.machine().name, name, path, took.Round(time.Millisecond))
}
