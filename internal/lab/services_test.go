//go:build lab

package lab

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// Ports of the role "services" on every address of its namespace, besides that of bulk transfers.
const (
	webPort  = "80"
	echoPort = "7" // UDP and TCP
)

// startServices starts the role. Its web pages contain name.
func (n *netns) startServices(name string) *process {
	n.t.Helper()
	p := n.role("services", asRoot, name)
	p.await(&p.out, readyLine, dialTimeout)
	return p
}

func serveServices(args []string) error {
	name := args[0]
	web, err := net.Listen("tcp", ":"+webPort)
	if err != nil {
		return err
	}
	bulk, err := net.Listen("tcp", ":"+bulkPort)
	if err != nil {
		return err
	}
	echo, err := net.Listen("tcp", ":"+echoPort)
	if err != nil {
		return err
	}
	datagrams, err := net.ListenPacket("udp", ":"+echoPort)
	if err != nil {
		return err
	}
	go serveConns(bulk, serveBulk)
	go serveConns(echo, func(c net.Conn) {
		defer c.Close()
		io.Copy(c, c)
	})
	go echoDatagrams(datagrams)
	fmt.Fprintln(os.Stdout, readyLine)
	return (&http.Server{Handler: page(name), ReadHeaderTimeout: 10 * time.Second}).Serve(web)
}

// page serves a page with name and the address of the client.
func page(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s for %s\n", name, host)
	}
}

func serveConns(ln net.Listener, serve func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go serve(c)
	}
}

func echoDatagrams(pc net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err == nil {
			pc.WriteTo(buf[:n], from)
		}
	}
}
