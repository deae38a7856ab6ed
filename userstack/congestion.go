package userstack

import (
	"fmt"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Congestion is how a stack decides how fast its TCP connections send.
type Congestion uint8

const (
	// BBR has the stack pace its packets by a model of the path's bandwidth and round-trip time, and
	// repair losses below gVisor's TCP: see flow.
	BBR Congestion = iota

	// CUBIC leaves both to gVisor: CUBIC (RFC 9438), and recovery from losses by SACK (RFC 6675).
	CUBIC
)

var congestionNames = [...]string{"bbr", "cubic"}

func (c Congestion) String() string {
	if int(c) < len(congestionNames) {
		return congestionNames[c]
	}
	return fmt.Sprintf("Congestion(%d)", uint8(c))
}

// ParseCongestion reads what String writes.
func ParseCongestion(text string) (Congestion, error) {
	for c, name := range congestionNames {
		if name == text {
			return Congestion(c), nil
		}
	}
	return 0, fmt.Errorf("%q is not bbr or cubic", text)
}

const (
	// What gVisor is set to under BBR. It sees no loss, so Reno never leaves slow start, and its own
	// retransmission timer only finds out that a connection is dead: a flow repeats what was lost long
	// before.
	managedCongestion = "reno"
	managedRTO        = 5 * time.Minute

	// Under CUBIC, what was lost in an outage of the tunnel is sent again soon after it.
	cubicMaxRTO = 8 * time.Second

	// userTimeout is how long a connection lasts without an answer, as with Linux.
	userTimeout = 15 * time.Minute
)

// options are gVisor's settings for c, in the order in which they must be made.
func (c Congestion) options() []tcpip.SettableTransportProtocolOption {
	if c == CUBIC {
		cc, rto, retries := tcpip.CongestionControlOption("cubic"), tcpip.TCPMaxRTOOption(cubicMaxRTO), tcpip.TCPMaxRetriesOption(userTimeout/cubicMaxRTO)
		return []tcpip.SettableTransportProtocolOption{&cc, &rto, &retries}
	}
	cc, retries := tcpip.CongestionControlOption(managedCongestion), tcpip.TCPMaxRetriesOption(userTimeout/managedRTO)
	most, least := tcpip.TCPMaxRTOOption(managedRTO), tcpip.TCPMinRTOOption(managedRTO)
	return []tcpip.SettableTransportProtocolOption{&cc, &most, &least, &retries}
}
