package controlcmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"ginnel/control/server"
	"ginnel/internal/cli"
)

const (
	devUser    = "dev"
	devKeyLife = 24 * time.Hour
)

// prepareDev makes user and key, before anybody is served.
func (s *controlService) prepareDev(ctx context.Context) error {
	a := &admin{client: &http.Client{Transport: inProcess{s.ctl.AdminHandler()}}, base: "http://control",
		where: "this process"}
	err := a.call(ctx, http.MethodPost, "users", map[string]string{"name": devUser}, nil)
	if e, ok := errors.AsType[*adminError](err); err != nil && (!ok || e.status != http.StatusConflict) {
		return err
	}
	req := server.AuthKeyRequest{User: devUser, Reusable: true, Expiry: time.Now().Add(devKeyLife)}
	return a.call(ctx, http.MethodPost, "keys", req, &s.devKey)
}

// invite prints the line with which another machine joins. It is all that --dev prints to standard
// output.
func (s *controlService) invite(p cli.Program) error {
	if host := s.site.Hostname(); isLoopbackHost(host) {
		s.log.Warn(
			"the line on standard output works on this machine alone: no address was found that another machine can use; "+
				"name one with --url http://ADDRESS:PORT, or with --listen", "host", host)
	} else if s.site.Scheme == "http" && !isPrivateHost(host) {
		s.log.Warn("nodes refuse plain HTTP to an address that is not private; name one with --url", "host", host)
	}
	s.log.Info("the line on standard output joins another machine; administer with 'ginnel control --state'",
		"state", s.dir, "key_expires", s.devKey.Expiry)
	_, err := fmt.Fprintf(p.Stdout, "ginnel up --control %s --authkey %s\n", s.site, s.devKey.Key)
	return err
}

// devURL is the URL of a port: the host that it is bound to, or the machine's address.
func devURL(bound net.Addr) *url.URL {
	host := hostOf(bound.String())
	if host == "" {
		host = machineAddr().String()
	}
	return &url.URL{Scheme: "http", Host: net.JoinHostPort(host, fmt.Sprint(cli.PortNumber(bound.String())))}
}

// machineAddr guesses the address by which others reach this machine. It takes the interface of the
// default route, and of its addresses one to which nodes accept plain HTTP.
func machineAddr() netip.Addr {
	addrs, _ := net.InterfaceAddrs()
	out := anyAddr(addrs)
	for _, far := range []string{"[2001:db8::1]:9", "192.0.2.1:9"} { // nothing is sent
		if conn, err := net.Dial("udp", far); err == nil {
			out = conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
			conn.Close()
		}
	}
	return bestAddr(out, besides(out))
}

// bestAddr chooses among the address that this machine goes out by and the others of that
// interface.
func bestAddr(out netip.Addr, others []netip.Addr) netip.Addr {
	best := out
	for _, a := range others {
		if isPrivateHost(a.String()) && (!isPrivateHost(best.String()) || a.Is4() && best.Is6()) {
			best = a
		}
	}
	return best
}

// anyAddr is the first of the interfaces' addresses that other machines may reach; loopback if
// there is none.
func anyAddr(addrs []net.Addr) netip.Addr {
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			return p.Addr()
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func isLoopbackHost(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// besides returns all addresses of the interface that has the address one.
func besides(one netip.Addr) []netip.Addr {
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		var addrs []netip.Addr
		list, _ := i.Addrs()
		for _, a := range list {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				addrs = append(addrs, p.Addr())
			}
		}
		if slices.Contains(addrs, one) {
			return addrs
		}
	}
	return nil
}
