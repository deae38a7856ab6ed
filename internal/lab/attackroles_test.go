//go:build lab

package lab

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"ginnel/control"
	"ginnel/key"
)

// The roles in this file are the attackers, and the honest WireGuard devices.

func decodeKey(text string) (k [key.Size]byte, err error) {
	b, err := base64.StdEncoding.DecodeString(text)
	if copy(k[:], b) != len(k) || len(b) != len(k) {
		err = errors.Join(err, fmt.Errorf("not a key of %d bytes", len(k)))
	}
	return k, err
}

// serveHandshakes is the role "handshakes". For each private key on its standard input, a stock
// device makes one handshake with the responder, whose address and public key are the arguments.
func serveHandshakes(args []string) error {
	responder, err := decodeKey(args[1])
	if err != nil {
		return err
	}
	done := 0
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		k, err := decodeKey(lines.Text())
		if err != nil {
			return err
		}
		ok, err := completesHandshake(args[0], responder, k)
		if err != nil {
			return err
		}
		if ok {
			done++
		}
	}
	fmt.Println("handshakes done:", done)
	return nil
}

// completesHandshake reports whether one handshake is complete within handshakeLimit.
func completesHandshake(addr string, responder, private [key.Size]byte) (bool, error) {
	tun := tuntest.NewChannelTUN()
	dev := device.NewDevice(tun.TUN(), conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	defer dev.Close()
	if err := dev.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=%s\nallowed_ip=10.77.0.1/32\n",
		hex.EncodeToString(private[:]), hex.EncodeToString(responder[:]), addr)); err != nil {
		return false, err
	}
	if err := dev.Up(); err != nil {
		return false, err
	}
	tun.Outbound <- tuntest.Ping(netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2"))
	for start := time.Now(); time.Since(start) < handshakeLimit; time.Sleep(2 * time.Millisecond) {
		state, err := dev.IpcGet()
		if err != nil {
			return false, err
		}
		if !strings.Contains(state, "last_handshake_time_sec=0\n") {
			return true, nil
		}
	}
	return false, nil
}

// Types and sizes in bytes of WireGuard's handshake messages (whitepaper, sections 5.4.2 and
// 5.4.3).
const (
	initiationType, initiationSize = 1, 148
	responseType, responseSize     = 2, 92
)

// serveGarbage is the role "garbage". From the address args[0] to args[1] it sends datagrams that
// look like initiations: args[2] bytes a second, or as many as it can if that is 0.
func serveGarbage(args []string) error {
	rate, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(args[0])}}
	c, err := d.Dial("udp", args[1])
	if err != nil {
		return err
	}
	b := randomBytes(initiationSize)
	binary.LittleEndian.PutUint32(b, initiationType)
	fmt.Println(readyLine)
	for {
		binary.LittleEndian.PutUint64(b[8:], rand.Uint64())
		c.Write(b) // errors are expected: the send buffer may be full
		if rate > 0 {
			time.Sleep(initiationSize * time.Second / time.Duration(rate))
		}
	}
}

// serveForge is the role "forge". It sees every initiation to the responder args[0] and answers at
// once in the responder's name, with a zero ephemeral key, which has low order. The public key of
// the initiator is args[1].
func serveForge(args []string) error {
	responder := netip.MustParseAddr(args[0])
	initiator, err := decodeKey(args[1])
	if err != nil {
		return err
	}
	const allProtocols = 0x0300 // ETH_P_ALL in network order
	in, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, allProtocols)
	if err != nil {
		return fmt.Errorf("opening a packet socket: %w", err)
	}
	out, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("opening a raw socket: %w", err)
	}
	fmt.Println(readyLine)
	answered := make(map[uint32]bool) // by sender index, because every interface delivers the same packet
	b := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(in, b, 0)
		if err != nil {
			return err
		}
		src, dst, payload := udpIn(b[:n])
		if dst.Addr() != responder || len(payload) != initiationSize || payload[0] != initiationType {
			continue
		}
		sender := binary.LittleEndian.Uint32(payload[4:])
		if answered[sender] {
			continue
		}
		answered[sender] = true
		packet := udpPacket(dst, src, forgedResponse(sender, initiator))
		if err := unix.Sendto(out, packet, 0, &unix.SockaddrInet4{Addr: src.Addr().As4()}); err != nil {
			return fmt.Errorf("sending a forged response: %w", err)
		}
		fmt.Println("forged a response to", src)
	}
}

// udpIn returns the addresses and the payload of a UDP datagram in an IPv4 packet without options.
// For any other packet the payload is nil.
func udpIn(b []byte) (src, dst netip.AddrPort, payload []byte) {
	const ipHeader, udpHeader = 20, 8
	if len(b) < ipHeader+udpHeader || b[0] != 0x45 || b[9] != unix.IPPROTO_UDP {
		return src, dst, nil
	}
	src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:])), binary.BigEndian.Uint16(b[20:]))
	dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:])), binary.BigEndian.Uint16(b[22:]))
	return src, dst, b[ipHeader+udpHeader:]
}

// udpPacket makes an IPv4 packet. The kernel fills in its header checksum.
func udpPacket(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 28, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(payload)))
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[20:], src.Port())
	binary.BigEndian.PutUint16(b[22:], dst.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload))) // checksum 0: not computed, as IPv4 allows
	return append(b, payload...)
}

// forgedResponse makes a response to the initiation with that sender index. Its MAC1 is valid,
// because the initiator's public key suffices for it. The rest would need the responder's key.
func forgedResponse(receiver uint32, initiator [key.Size]byte) []byte {
	b := make([]byte, responseSize)
	b[0] = responseType
	binary.LittleEndian.PutUint32(b[4:], rand.Uint32())
	binary.LittleEndian.PutUint32(b[8:], receiver)
	copy(b[44:], randomBytes(16)) // tag of the empty payload; the ephemeral key before it stays zero
	label := blake2s.Sum256(append([]byte("mac1----"), initiator[:]...))
	mac, err := blake2s.New128(label[:])
	if err != nil {
		panic(err) // cannot happen: the key has 32 bytes
	}
	mac.Write(b[:60])
	copy(b[60:], mac.Sum(nil))
	return b
}

// unregisteredAtOnce is how many connections are being opened at a time.
const unregisteredAtOnce = 32

// serveUnregistered is the role "unregistered". From the address args[1] it opens args[3] control
// channels to the server args[2] and holds them. If args[0] is "logins", it also asks for a login
// on each.
func serveUnregistered(args []string) error {
	from, url := args[1], args[2]
	count, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: uint64(count) + 200, Max: uint64(count) + 200}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: dialTimeout}
	req := control.RegisterRequest{} // without a node key: refused, but the channel stays open
	if args[0] == "logins" {
		req.Hostinfo = &control.Hostinfo{Hostname: "stranger"}
	}
	var wg sync.WaitGroup
	work := make(chan struct{})
	for range unregisteredAtOnce {
		wg.Go(func() {
			for range work {
				ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
				cfg := control.ClientConfig{URL: url, MachineKey: key.NewMachinePrivate(), DialContext: d.DialContext}
				if c, err := control.NewClient(cfg); err == nil {
					req := req
					if req.Hostinfo != nil {
						req.NodeKey = key.NewNodePrivate().Public()
					}
					c.Register(ctx, req) // the connection stays open until this process ends
				}
				cancel()
			}
		})
	}
	for range count {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	fmt.Println(readyLine)
	select {} // hold the channels until killed
}
