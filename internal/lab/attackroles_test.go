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

// The roles of attackers, and that of honest WireGuard devices.

func decodeKey(text string) (k [key.Size]byte, err error) {
	b, err := base64.StdEncoding.DecodeString(text)
	if copy(k[:], b) != len(k) || len(b) != len(k) {
		err = errors.Join(err, fmt.Errorf("not a key of %d bytes", len(k)))
	}
	return k, err
}

// serveHandshakes is the role "handshakes": for each private key that it reads, a stock device makes
// a handshake with the responder at an address.
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
		ok, err := shakeHands(args[0], responder, k)
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

// shakeHands reports whether one handshake comes about in time.
func shakeHands(addr string, responder, private [key.Size]byte) (bool, error) {
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

// Sizes and types of WireGuard's handshake messages.
const (
	initiationType, initiationSize = 1, 148
	responseType, responseSize     = 2, 92
)

// serveGarbage is the role "garbage": it sends datagrams in the shape of initiations from an
// address, at so many bytes a second, or as fast as it can.
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
	b := noise(initiationSize)
	binary.LittleEndian.PutUint32(b, initiationType)
	fmt.Println(readyLine)
	for {
		binary.LittleEndian.PutUint64(b[8:], rand.Uint64())
		c.Write(b) // refused by the system now and then
		if rate > 0 {
			time.Sleep(initiationSize * time.Second / time.Duration(rate))
		}
	}
}

// serveForge is the role "forge": it sees the initiations that pass on their way to a responder, and
// answers each at once in its name, with an ephemeral key of low order, for an initiator whose
// public key it knows.
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
	answered := make(map[uint32]bool) // by sender index: each interface sees a packet
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

// udpIn returns what an IPv4 packet with UDP carries; nothing for others.
func udpIn(b []byte) (src, dst netip.AddrPort, payload []byte) {
	const ipHeader, udpHeader = 20, 8
	if len(b) < ipHeader+udpHeader || b[0] != 0x45 || b[9] != unix.IPPROTO_UDP {
		return src, dst, nil
	}
	src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:])), binary.BigEndian.Uint16(b[20:]))
	dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:])), binary.BigEndian.Uint16(b[22:]))
	return src, dst, b[ipHeader+udpHeader:]
}

// udpPacket makes an IPv4 packet, whose header checksum the kernel fills in.
func udpPacket(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 28, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(payload)))
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[20:], src.Port())
	binary.BigEndian.PutUint16(b[22:], dst.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload))) // without a checksum, which IPv4 allows
	return append(b, payload...)
}

// forgedResponse answers the initiation with a sender index, as far as that can be done without the
// responder's key: with a valid MAC1.
func forgedResponse(receiver uint32, initiator [key.Size]byte) []byte {
	b := make([]byte, responseSize)
	b[0] = responseType
	binary.LittleEndian.PutUint32(b[4:], rand.Uint32())
	binary.LittleEndian.PutUint32(b[8:], receiver)
	copy(b[44:], noise(16)) // of the empty payload; the ephemeral key before it is zero
	label := blake2s.Sum256(append([]byte("mac1----"), initiator[:]...))
	mac, err := blake2s.New128(label[:])
	if err != nil {
		panic(err) // the key has the right size
	}
	mac.Write(b[:60])
	copy(b[60:], mac.Sum(nil))
	return b
}

// strangersAtOnce is how many connections are being made at a time.
const strangersAtOnce = 32

// serveStrangers is the role "strangers": from one address it opens many channels to a coordination
// server and holds them, or asks for many logins.
func serveStrangers(args []string) error {
	from, url := args[1], args[2]
	count, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(count) + 200, Max: uint64(count) + 200}); err != nil {
		return err
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: dialTimeout}
	req := control.RegisterRequest{} // without a key: refused, and the channel stays
	if args[0] == "logins" {
		req.Hostinfo = &control.Hostinfo{Hostname: "stranger"}
	}
	var wg sync.WaitGroup
	work := make(chan struct{})
	for range strangersAtOnce {
		wg.Go(func() {
			for range work {
				ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
				if c, err := control.NewClient(control.ClientConfig{URL: url, MachineKey: key.NewMachinePrivate(), DialContext: d.DialContext}); err == nil {
					req := req
					if req.Hostinfo != nil {
						req.NodeKey = key.NewNodePrivate().Public()
					}
					c.Register(ctx, req) // and is held, with its channel
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
	select {} // until killed, with the channels
}
