package userstack

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is the Device as gVisor's link endpoint. It is a separate type because both have MTU and
// Close.
type link struct {
	d  *Device
	up *atomic.Pointer[stack.NetworkDispatcher] // a field of d; it holds nil while detached
}

var (
	_ stack.LinkEndpoint       = link{}
	_ stack.GSOEndpoint        = link{}
	_ stack.QueueingDiscipline = link{}
)

// WritePacket implements stack.QueueingDiscipline. Without it gVisor would make a list for each
// packet.
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

// Capabilities says that gVisor need not verify checksums, because WireGuard has authenticated all
// bytes.
func (l link) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityRXChecksumOffload }

// SupportedGSO makes gVisor send segments of up to GSOMaxSize, with checksums left to the device.
func (l link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// GSOMaxSize implements stack.GSOEndpoint. gVisor subtracts the longest possible headers and one
// byte. The rest makes whole batches over IPv4. Over IPv6 it makes one more, partial packet, which
// the start of the next segment fills.
func (l link) GSOMaxSize() uint32 {
	payload := l.d.segment * (l.d.mtu - header.IPv4MinimumSize - header.TCPHeaderMaximumSize)
	return uint32(min(payload+header.TCPTotalHeaderMaximumSize+1, 64<<10-1))
}

// MTU implements stack.LinkEndpoint.
func (l link) MTU() uint32 { return uint32(l.d.mtu) }

// SetMTU implements stack.LinkEndpoint. It does nothing: the MTU is fixed by New.
func (l link) SetMTU(uint32) {}

// MaxHeaderLength implements stack.LinkEndpoint. There is no link header.
func (l link) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements stack.LinkEndpoint.
func (l link) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress implements stack.LinkEndpoint.
func (l link) SetLinkAddress(tcpip.LinkAddress) {}

// Close implements stack.LinkEndpoint.
func (l link) Close() { l.d.Close() }

// Wait implements stack.LinkEndpoint. The device has no goroutines.
func (l link) Wait() {}

// ARPHardwareType implements stack.LinkEndpoint.
func (l link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader implements stack.LinkEndpoint.
func (l link) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements stack.LinkEndpoint.
func (l link) ParseHeader(*stack.PacketBuffer) bool { return true }

// SetOnCloseAction implements stack.LinkEndpoint.
func (l link) SetOnCloseAction(func()) {}
