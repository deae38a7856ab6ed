package node_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"time"

	"ginnel/key"
	"ginnel/node"
)

// Two nodes that know each other by configuration, as with wg-quick: no coordination server, no
// relay.
func Example_plainWireGuard() {
	loopback := netip.MustParseAddr("127.0.0.1")
	serverKey, clientKey := key.NewNodePrivate(), key.NewNodePrivate()

	server, err := node.New(node.Config{
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
	defer server.Close()

	client, err := node.New(node.Config{
		Key:     clientKey,
		UDPAddr: loopback,
		Map: node.NetworkMap{
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.2/24")},
			Peers: []node.Peer{{
				Name: "server", Key: serverKey.Public(), Plain: true,
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/32")},
				Endpoint:  node.Endpoint{Host: loopback.String(), Port: server.UDPPort()},
			}},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	ln, err := server.Listen(netip.AddrPortFrom(netip.Addr{}, 7)) // on all addresses of the node
	if err != nil {
		log.Fatal(err)
	}
	go serveHello(ln)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := client.DialContext(ctx, "tcp", "10.77.0.1:7")
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

func serveHello(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, "hello through the tunnel")
		c.Close()
	}
}
