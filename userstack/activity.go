package userstack

import (
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Activity hears of packets of the mesh, when they come and before they leave. Its methods are
// called for each batch and must be quick.
type Activity interface {
	Dialogue() // a single packet passed that may be a question or an answer: another one is expected soon
	Bulk()     // other packets passed: parts of a large transfer, or bare acknowledgements
}

// noActivity is the Activity of a stack without one.
type noActivity struct{}

func (noActivity) Dialogue() {}
func (noActivity) Bulk()     {}

// traffic is the kind of a packet, by which an Activity is told of it.
type traffic uint8

const (
	bulk traffic = iota
	dialogue
)

// tell tells the Activity of a packet or a batch.
func (d *Device) tell(t traffic) {
	if t == dialogue {
		d.activity.Dialogue()
	} else {
		d.activity.Bulk()
	}
}

// dialogueSize is the length in bytes of the longest packet that counts as a question or an answer.
// The last packet of a bulk transfer can be as short, but such packets are rare.
const dialogueSize = 512

// trafficOf returns the kind of a packet that came alone.
func trafficOf(packet []byte) traffic {
	if len(packet) > dialogueSize {
		return bulk
	}
	l4, hdr, k := classify(packet)
	if k != notTCP && hdr == len(packet) && header.TCP(packet[l4:]).Flags() == header.TCPFlagAck {
		return bulk
	}
	return dialogue
}

// trafficOfBuffer is trafficOf for a packet that gVisor made.
func trafficOfBuffer(pkt *stack.PacketBuffer) traffic {
	if pkt.Size() > dialogueSize {
		return bulk
	}
	if pkt.TransportProtocolNumber == header.TCPProtocolNumber && pkt.Data().Size() == 0 &&
		header.TCP(pkt.TransportHeader().Slice()).Flags() == header.TCPFlagAck {
		return bulk
	}
	return dialogue
}
