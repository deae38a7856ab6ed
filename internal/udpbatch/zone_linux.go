package udpbatch

import (
	"net"
	"strconv"
)

// zone is an interface that link-local addresses belong to, as package net names it and as the
// kernel counts it. A socket mostly hears of one, so that it remembers the last: asking the system
// costs more than a datagram.
type zone struct {
	name string
	id   uint32
}

// zoneName is a number where the interface is gone.
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

// zoneID is 0 for no interface, and for one that does not exist: the kernel then refuses what it
// cannot send.
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
