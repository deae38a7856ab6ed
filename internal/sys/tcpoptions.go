package sys

import "time"

// TCPState is what the kernel knows about a TCP connection (TCP_INFO).
type TCPState struct {
	RTT          time.Duration // smoothed
	MinRTT       time.Duration
	DeliveryRate uint64 // bytes a second, as last measured
	Sent         uint64 // payload bytes, retransmissions included
	Retrans      uint64 // payload bytes of retransmissions
}

// The functions below take the descriptor of a TCP socket. Errors are ignored: a connection works
// without the option. In portable builds they do nothing.

// SetUserTimeout limits how long sent bytes may stay unacknowledged before the connection fails
// (TCP_USER_TIMEOUT, RFC 5482).
func SetUserTimeout(fd uintptr, d time.Duration) { setUserTimeout(fd, d) }

// SetUnsentLimit limits the bytes in the socket that have not been sent yet; above it the socket is
// not writable (TCP_NOTSENT_LOWAT).
func SetUnsentLimit(fd uintptr, bytes int) { setUnsentLimit(fd, bytes) }

// ReadTCPState reports false where the kernel tells nothing.
func ReadTCPState(fd uintptr) (TCPState, bool) { return readTCPState(fd) }

// SetPacing limits the rate at which the kernel sends, in bytes a second; 0 removes the limit
// (SO_MAX_PACING_RATE).
func SetPacing(fd uintptr, rate uint64) { setPacing(fd, rate) }

// SetCongestion asks for a congestion control by name. The kernel may not have it or not allow it.
func SetCongestion(fd uintptr, name string) { setCongestion(fd, name) }

// Congestion returns the name of the congestion control of a connection, or "".
func Congestion(fd uintptr) string { return congestion(fd) }
