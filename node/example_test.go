package node_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"ginnel/control"
	"ginnel/control/server"
	"ginnel/control/store"
	"ginnel/key"
	"ginnel/node"
	relayserver "ginnel/relay/server"
)

// Two nodes that know each other by configuration, as with wg-quick: without a coordination server
// and without a relay.
func Example_plainWireGuard() {
	loopback := netip.MustParseAddr("127.0.0.1")
	serverKey, clientKey := key.NewNodePrivate(), key.NewNodePrivate()

	srv, err := node.New(node.Config{
		Key:     serverKey,
		UDPAddr: loopback,
		Map: node.NetworkMap{
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24")},
			Peers: []node.Peer{{
				Name: "client", Key: clientKey.Public(), Plain: true,
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.2/32")},
			}},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()

	client, err := node.New(node.Config{
		Key:     clientKey,
		UDPAddr: loopback,
		Map: node.NetworkMap{
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.2/24")},
			Peers: []node.Peer{{
				Name: "server", Key: serverKey.Public(), Plain: true,
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/32")},
				Endpoint:  node.Endpoint{Host: loopback.String(), Port: srv.UDPPort()},
			}},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	ln, err := srv.Listen(netip.AddrPortFrom(netip.Addr{}, 7)) // on all addresses of the node
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	go serveText(ln, "hello through the tunnel")

	conn, err := dial(client, "10.77.0.1:7")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
	// Output: hello through the tunnel
}

// DialContext connects to a peer by its name in the mesh.
func ExampleNode_DialContext() {
	mesh := startMesh()
	defer mesh.close()
	beta, alpha := mesh.join("beta"), mesh.join("alpha")
	ln, err := beta.Listen(netip.AddrPortFrom(netip.Addr{}, 7))
	if err != nil {
		log.Fatal(err)
	}
	go serveText(ln, "hello from beta")

	conn, err := dial(alpha, "beta:7")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
	// Output: hello from beta
}

// Listen accepts connections from peers. What they may reach is the policy of the network.
func ExampleNode_Listen() {
	mesh := startMesh()
	defer mesh.close()
	beta, alpha := mesh.join("beta"), mesh.join("alpha")
	ln, err := beta.Listen(netip.AddrPortFrom(netip.Addr{}, 80))
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "you asked %s for %s", r.Host, r.URL.Path)
	}))

	fmt.Println(get(alpha.HTTPClient(), "http://beta/page"))
	// Output: you asked beta for /page
}

// HTTPClient returns an HTTP client whose connections go through the mesh.
func ExampleNode_HTTPClient() {
	mesh := startMesh()
	defer mesh.close()
	beta, alpha := mesh.join("beta"), mesh.join("alpha")
	ln, err := beta.Listen(netip.AddrPortFrom(netip.Addr{}, 80))
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(ln, http.NotFoundHandler())

	fmt.Println(get(alpha.HTTPClient(), "http://beta.mesh.example/"))
	// Output: 404 page not found
}

// mesh is a relay and a coordination server on loopback, embedded in this program.
type mesh struct {
	url, authKey string
	closers      []io.Closer
}

func (m *mesh) close() {
	for i := range m.closers {
		m.closers[len(m.closers)-1-i].Close()
	}
}

// startMesh starts both, and makes a key with which nodes join.
func startMesh() *mesh {
	m := new(mesh)
	relay, err := relayserver.New(relayserver.Config{Key: key.NewNodePrivate()})
	if err != nil {
		log.Fatal(err)
	}
	m.closers = append(m.closers, relay)
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir) // the certificate is in memory then
	conf, pin, err := relayserver.SelfSignedTLS(dir, "127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	ln := listen()
	go relay.Serve(ln, conf)

	const region = 900
	relays := control.DERPMap{Regions: map[int]*control.DERPRegion{region: {
		RegionID: region, RegionCode: "local",
		Nodes: []*control.DERPNode{{
			Name: "900a", RegionID: region, HostName: "127.0.0.1", CertName: pin,
			DERPPort: ln.Addr().(*net.TCPAddr).Port, STUNPort: -1,
		}},
	}}}
	web := listen()
	m.url = "http://" + web.Addr().String()
	coordinator, err := server.New(server.Config{
		Store: store.NewMemory(), URL: m.url, BaseDomain: "mesh.example", DERPMap: relays})
	if err != nil {
		log.Fatal(err)
	}
	hs := &http.Server{Handler: coordinator}
	go hs.Serve(web)
	m.closers = append(m.closers, coordinator, hs)

	ctx := context.Background()
	if _, err := coordinator.CreateUser(ctx, "ann", ""); err != nil {
		log.Fatal(err)
	}
	made, err := coordinator.CreateAuthKey(ctx, server.AuthKeyRequest{User: "ann", Reusable: true})
	if err != nil {
		log.Fatal(err)
	}
	m.authKey = made.Key
	return m
}

// join starts a node and waits until it has joined.
func (m *mesh) join(name string) *node.Node {
	n, err := node.New(node.Config{
		UDPAddr: netip.MustParseAddr("127.0.0.1"),
		Control: &node.Control{URL: m.url, AuthKey: m.authKey, Hostname: name},
	})
	if err != nil {
		log.Fatal(err)
	}
	m.closers = append(m.closers, n)
	for n.Status().State != node.StateRunning {
		time.Sleep(10 * time.Millisecond)
	}
	return n
}

func listen() net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return ln
}

func dial(n *node.Node, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return n.DialContext(ctx, "tcp", addr)
}

func get(client *http.Client, url string) string {
	client.Timeout = 10 * time.Second
	resp, err := client.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	return string(body)
}

// serveText sends a text on each connection.
func serveText(ln net.Listener, text string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, text)
		c.Close()
	}
}
