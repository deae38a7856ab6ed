package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"ginnel/control/server"
)

const (
	devUser    = "dev"
	devKeyLife = 24 * time.Hour
)

// invite makes user and key, and prints the line with which another machine joins: nothing else goes there.
func (s *controlService) invite(ctx context.Context, p program) error {
	a := &admin{client: &http.Client{Transport: inProcess{s.ctl.AdminHandler()}}, base: "http://control", where: "this process"}
	err := a.call(ctx, http.MethodPost, "users", map[string]string{"name": devUser}, nil)
	if e, ok := errors.AsType[*adminError](err); err != nil && (!ok || e.status != http.StatusConflict) {
		return err
	}
	var key server.AuthKey
	req := server.AuthKeyRequest{User: devUser, Reusable: true, Expiry: time.Now().Add(devKeyLife)}
	if err := a.call(ctx, http.MethodPost, "keys", req, &key); err != nil {
		return err
	}
	s.log.Info("the line on standard output joins another machine; administer with 'ginnel control --state'",
		"state", s.dir, "key_expires", key.Expiry)
	_, err = fmt.Fprintf(p.stdout, "ginnel up --control %s --authkey %s\n", s.site, key.Key)
	return err
}

// devURL is the URL of a port: the host that it is bound to, or the machine's address.
func devURL(bound net.Addr) *url.URL {
	host := hostOf(bound.String())
	if host == "" {
		host = machineAddr().String()
	}
	return &url.URL{Scheme: "http", Host: net.JoinHostPort(host, fmt.Sprint(portNumber(bound.String())))}
}

// machineAddr is the address that others reach this machine at, as far as it knows: the one it goes out by, or else any.
func machineAddr() netip.Addr {
	for _, far := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} { // nothing is sent
		if conn, err := net.Dial("udp", far); err == nil {
			addr := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
			conn.Close()
			return addr
		}
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			return p.Addr()
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
