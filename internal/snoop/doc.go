// Package snoop sends the data of a TCP connection below its TCP: it keeps what the peer has not
// acknowledged, repairs losses itself, and paces by BBR. The idea of repairing below TCP is that of
// the Snoop protocol (Balakrishnan et al., "Improving TCP/IP Performance over Wireless Networks",
// 1995).
//
// TCP above hands over segments and believes that it has sent them. A Sender decides when each
// leaves, finds what was lost by RACK and tail loss probes (RFC 8985) from the peer's selective
// acknowledgements, and sends that again. TCP is shown acknowledgements without the signs of loss,
// so it never slows down: how much is in flight is decided by package bbr alone.
//
// A Sender knows sequence numbers only; its owner keeps the bytes. It has no clock, no goroutine
// and no lock: its owner calls it with the time, which is any clock that does not go back.
package snoop
