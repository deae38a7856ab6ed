//go:build lab

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// zone holds the records of the lab's DNS server. Names that begin with bigName are answered over
// TCP only.
type zone map[string][]netip.Addr

const bigName = "big."

// args returns the zone as arguments of the role "dns".
func (z zone) args() (args []string) {
	for name, addrs := range z {
		for _, a := range addrs {
			args = append(args, name+"="+a.String())
		}
	}
	return args
}

// startDNS starts a DNS server, which prints a line for each question.
func (n *netns) startDNS(z zone) *process {
	n.t.Helper()
	p := n.role("dns", asRoot, z.args()...)
	p.await(&p.out, readyLine, dialTimeout)
	return p
}

func serveDNS(args []string) error {
	z := make(zone)
	for _, arg := range args {
		name, text, _ := strings.Cut(arg, "=")
		a, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}
		z[name] = append(z[name], a)
	}
	pc, err := net.ListenPacket("udp", ":53")
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", ":53")
	if err != nil {
		return err
	}
	go serveConns(ln, z.serveTCP)
	fmt.Fprintln(os.Stdout, readyLine)
	buf := make([]byte, 4096)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return err
		}
		if answer, err := z.answer(buf[:n], "udp"); err == nil {
			pc.WriteTo(answer, from)
		}
	}
}

func (z zone) serveTCP(c net.Conn) {
	defer c.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		question := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, question); err != nil {
			return
		}
		answer, err := z.answer(question, "tcp")
		if err != nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// answer returns the response to one query.
func (z zone) answer(question []byte, network string) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil || len(m.Questions) != 1 {
		return nil, errors.New("no question")
	}
	q := m.Questions[0]
	name := strings.ToLower(q.Name.String())
	fmt.Fprintf(os.Stdout, "asked for %s %v over %s\n", name, q.Type, network)
	addrs, known := z[name]
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionDesired: m.RecursionDesired}
	m.Additionals = nil
	switch {
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	case network == "udp" && strings.HasPrefix(name, bigName):
		m.Truncated = true
	default:
		m.Answers = records(q, addrs)
	}
	return m.Pack()
}

func records(q dnsmessage.Question, addrs []netip.Addr) (answers []dnsmessage.Resource) {
	for _, a := range addrs {
		head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			answers = append(answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			answers = append(answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return answers
}
