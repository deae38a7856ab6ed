package userstack

import (
	"fmt"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Congestion selects the congestion control of the TCP connections of a stack.
type Congestion uint8

const (
	// BBR paces packets by a model of the path's bandwidth and round-trip time, and repairs losses
	// below gVisor's TCP: see tcpFlow.
	BBR Congestion = iota

	// CUBIC (RFC 9438) leaves both to gVisor, which recovers from losses by SACK (RFC 6675).
	CUBIC
)

var congestionNames = [...]string{"bbr", "cubic"}

func (c Congestion) String() string {
	if int(c) < len(congestionNames) {
		return congestionNames[c]
	}
	return fmt.Sprintf("Congestion(%d)", uint8(c))
}

// ParseCongestion is the inverse of String.
func ParseCongestion(text string) (Congestion, error) {
	for c, name := range congestionNames {
		if name == text {
			return Congestion(c), nil
		}
	}
	return 0, fmt.Errorf("%q is not bbr or cubic", text)
}

const (
	// Under BBR gVisor's own congestion control must not limit anything. gVisor sees no loss, so Reno
	// never leaves slow start. A tcpFlow retransmits lost packets long before gVisor's retransmission
	// timer expires, so that timer only detects dead connections.
	managedCongestion = "reno"
	managedRTO        = 5 * time.Minute

	// Under CUBIC a limit on the RTO makes connections resume soon after an outage of the tunnel.
	cubicMaxRTO = 8 * time.Second

	// userTimeout is how long a connection lasts while the peer acknowledges nothing (RFC 9293,
	// section 3.8.3). It is about that of Linux.
	userTimeout = 15 * time.Minute
)

// options are the gVisor settings for c, in the order in which they must be applied.
func (c Congestion) options() []tcpip.SettableTransportProtocolOption {
	if c == CUBIC {
		cc, rto := tcpip.CongestionControlOption("cubic"), tcpip.TCPMaxRTOOption(cubicMaxRTO)
		retries := tcpip.TCPMaxRetriesOption(userTimeout / cubicMaxRTO)
		return []tcpip.SettableTransportProtocolOption{&cc, &rto, &retries}
	}
	cc, retries := tcpip.CongestionControlOption(managedCongestion), tcpip.TCPMaxRetriesOption(userTimeout/managedRTO)
	most, least := tcpip.TCPMaxRTOOption(managedRTO), tcpip.TCPMinRTOOption(managedRTO)
	return []tcpip.SettableTransportProtocolOption{&cc, &most, &least, &retries}
}
