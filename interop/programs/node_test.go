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

// node is a member of a mesh, of either make.
type node interface {
	// machine is where it runs.
	machine() *host
	// up starts the program and waits until the mesh is usable. Without a key it has to come back as
	// what it was before.
	up(server, key string)
	// program is what runs now.
	program() *process
	// dialer connects to its proxy.
	dialer() func(ctx context.Context) (net.Conn, error)
	// address is what it has in the mesh.
	address() netip.Addr
	// knows reports whether a peer is in its map.
	knows(peer string) bool
	// sees says whether a peer in its map is connected to the server, in the words of what people and
	// scripts are shown.
	sees(peer string) presence
	// path says how it reaches a peer: "relay", "direct", or what is the matter.
	path(peer string) string
}

// presence is what a node says of a peer.
type presence string

const (
	online  presence = "online"
	offline presence = "offline"
	unknown presence = "unknown"
)

// fetchLimit bounds one request, the making of its path through the mesh included.
const fetchLimit = 10 * time.Second

// fetch asks for a page by way of a node's SOCKS5 proxy.
func fetch(n node, host, path string) (string, error) {
	return fetchBy("socks5h", fetchLimit, n, host, path)
}

func fetchWithin(limit time.Duration, n node, host, path string) (string, error) {
	return fetchBy("socks5h", limit, n, host, path)
}

// fetchBy asks by way of the node's proxy, which is asked for names as they are.
func fetchBy(scheme string, limit time.Duration, n node, host, path string) (string, error) {
	return get(scheme, limit, n, fmt.Sprintf("http://%s:%d%s", host, servicePort, path))
}

// get is for services of any port.
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

// reach makes sure that one node reaches the service of another, now and not at some time.
func reach(t *testing.T, from, to node, name string) {
	t.Helper()
	begun := time.Now()
	want := to.machine().name
	if got, err := fetch(from, name, "/"); got != want || err != nil {
		t.Fatalf("%s asks for http://%s: %q, %v, want %q", from.machine().name, name, got, err, want)
	}
	t.Logf("%s reaches http://%s in %v", from.machine().name, name, time.Since(begun).Round(time.Millisecond))
}

// recovers waits until one node reaches another again.
func recovers(t *testing.T, from, to node) {
	t.Helper()
	want := to.machine().name
	took := eventually(t, from.machine().name+" reaches "+want+" again", func() bool {
		got, err := fetchWithin(2*time.Second, from, want, "/")
		return got == want && err == nil
	})
	t.Logf("%s reaches %s again after %v", from.machine().name, want, took.Round(time.Millisecond))
}

// carry makes sure that bulk passes without a byte lost.
func carry(t *testing.T, from, to node) {
	t.Helper()
	begun := time.Now()
	name := to.machine().name
	got, err := fetch(from, name, "/bulk")
	if got != bulkText(name) || err != nil {
		t.Fatalf("%s fetches bulk from %s: %d bytes, %v", from.machine().name, name, len(got), err)
	}
	t.Logf("%s has %d bytes of %s in %v", from.machine().name, len(got), name, time.Since(begun).Round(time.Millisecond))
}

// takes waits until one node reaches the other by the path that is named.
func takes(t *testing.T, path string, from, to node) {
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
