package userstack

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is the device as gVisor sees it. It is a type of its own because both sides have an MTU and
// a Close.
type link struct {
	d  *Device
	up *atomic.Pointer[stack.NetworkDispatcher] // of the device; nil in it while detached
}

var (
	_ stack.LinkEndpoint       = link{}
	_ stack.GSOEndpoint        = link{}
	_ stack.QueueingDiscipline = link{}
)

// WritePacket implements stack.QueueingDiscipline, so that gVisor hands packets over one by one
// instead of making a list for each.
func (l link) WritePacket(pkt *stack.PacketBuffer) tcpip.Error {
	if l.d.isRouter.Load() && l.deliverLocally(pkt) {
		return nil
	}
	return l.d.enqueue(pkt)
}

// WritePackets implements stack.LinkWriter.
func (l link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for n, pkt := range pkts.AsSlice() {
		if err := l.WritePacket(pkt); err != nil {
			return n, err
		}
	}
	return pkts.Len(), nil
}

// Attach implements stack.LinkEndpoint; a nil dispatcher detaches.
func (l link) Attach(dispatcher stack.NetworkDispatcher) {
	if dispatcher == nil {
		l.up.Store(nil)
		return
	}
	l.up.Store(&dispatcher)
}

// IsAttached implements stack.LinkEndpoint.
func (l link) IsAttached() bool { return l.up.Load() != nil }

// Capabilities says that checksums of inbound packets need no check: WireGuard has authenticated
// every byte.
func (l link) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityRXChecksumOffload }

// SupportedGSO asks gVisor for segments of up to GSOMaxSize, with checksums left to us.
func (l link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// GSOMaxSize implements stack.GSOEndpoint. gVisor takes the headers that TCP could have, and a
// byte, off it. What is left fills whole batches over IPv4; over IPv6 a packet more, which the next
// segment fills up.
func (l link) GSOMaxSize() uint32 {
	payload := l.d.segment * (l.d.mtu - header.IPv4MinimumSize - header.TCPHeaderMaximumSize)
	return uint32(min(payload+header.TCPTotalHeaderMaximumSize+1, 64<<10-1))
}

// MTU implements stack.LinkEndpoint.
func (l link) MTU() uint32 { return uint32(l.d.mtu) }

// SetMTU implements stack.LinkEndpoint. The MTU is fixed when the stack is made.
func (l link) SetMTU(uint32) {}

// MaxHeaderLength implements stack.LinkEndpoint: packets have no link header.
func (l link) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements stack.LinkEndpoint.
func (l link) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress implements stack.LinkEndpoint.
func (l link) SetLinkAddress(tcpip.LinkAddress) {}

// Close implements stack.LinkEndpoint.
func (l link) Close() { l.d.Close() }

// Wait implements stack.LinkEndpoint: there are no goroutines.
func (l link) Wait() {}

// ARPHardwareType implements stack.LinkEndpoint.
func (l link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader implements stack.LinkEndpoint.
func (l link) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements stack.LinkEndpoint.
func (l link) ParseHeader(*stack.PacketBuffer) bool { return true }

// SetOnCloseAction implements stack.LinkEndpoint.
func (l link) SetOnCloseAction(func()) {}
