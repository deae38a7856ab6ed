//go:build linux && !ginnel_stdnet

package sys

import (
	"net"
	"strconv"
)

// zone is the interface of a link-local address: its name in package net and its index in the
// kernel. A socket remembers the last one because asking the kernel costs more than a datagram.
type zone struct {
	name string
	id   uint32
}

// zoneName returns the name of an interface, or its index as text if it no longer exists.
func (s *osSocket) zoneName(id uint32) string {
	if z := s.zone.Load(); z != nil && z.id == id {
		return z.name
	}
	z := &zone{strconv.FormatUint(uint64(id), 10), id}
	if i, err := net.InterfaceByIndex(int(id)); err == nil {
		z.name = i.Name
	}
	s.zone.Store(z)
	return z.name
}

// zoneID returns the index of an interface, 0 if there is none of that name. The kernel then
// refuses to send.
func (s *osSocket) zoneID(name string) uint32 {
	if name == "" {
		return 0
	}
	if z := s.zone.Load(); z != nil && z.name == name {
		return z.id
	}
	i, err := net.InterfaceByName(name)
	if err != nil {
		id, _ := strconv.ParseUint(name, 10, 32)
		return uint32(id)
	}
	s.zone.Store(&zone{name, uint32(i.Index)})
	return uint32(i.Index)
}
