package sockowner

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"ginnel/internal/sys"
)

// overflowID is the user that a user namespace shows for all users that it does not know, as the
// kernel sets it unless it is told otherwise (/proc/sys/kernel/overflowuid).
const overflowID = 65534

// bySockDiag reports whether the kernel answers questions about one socket (sock_diag(7)).
// Sandboxes and seccomp filters may not allow them.
var bySockDiag = sync.OnceValue(func() bool {
	return tryOn(context.Background(), func(client, server netip.AddrPort) bool {
		_, ok := sys.ConnOwner(client, server)
		return ok
	})
})

// isOurs asks the kernel for the user of the socket. Where it does not answer, isOurs looks the
// socket up in proc_net_tcp(5), which takes longer the more sockets there are.
func isOurs(client, server netip.AddrPort) bool {
	user := os.Geteuid()
	if user == overflowID && !knowsAllUsers() {
		return false
	}
	if bySockDiag() {
		owner, ok := sys.ConnOwner(client, server)
		return ok && owner == user
	}
	return isOursByProc(user, client, server)
}

func isOursByProc(user int, client, server netip.AddrPort) bool {
	if client.Addr().Is4() && isOwner(user, "/proc/thread-self/net/tcp", client, server) {
		return true
	}
	// A JVM has IPv6 sockets for IPv4 too, whose addresses are written as IPv6 ones (RFC 4291 section
	// 2.5.5.2).
	return isOwner(user, "/proc/thread-self/net/tcp6", to6(client), to6(server))
}

func to6(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
}

func isOwner(user int, table string, client, server netip.AddrPort) bool {
	f, err := os.Open(table)
	if err != nil {
		return false
	}
	defer f.Close()
	owner, ok := findOwner(f, client, server)
	return ok && owner == user
}

// established is the state of a connection that neither end has closed (TCP_ESTABLISHED). In other
// states the kernel shows user 0 where it has forgotten the real one.
const established = "01"

// findOwner looks for the client's end of a connection in a table of proc_net_tcp(5).
func findOwner(table io.Reader, client, server netip.AddrPort) (user int, ok bool) {
	from, to := procAddr(client), procAddr(server)
	for lines := bufio.NewScanner(table); lines.Scan(); {
		f := strings.Fields(lines.Text()) // number, local, remote, state, queues, timer, retransmits, user, timeout, inode
		if len(f) < 10 || f[1] != from || f[2] != to || f[3] != established || f[9] == "0" {
			continue
		}
		user, err := strconv.Atoi(f[7])
		return user, err == nil
	}
	return 0, false
}

// procAddr writes an address as the kernel does there: 32-bit words in the order of the machine.
func procAddr(a netip.AddrPort) string {
	var b strings.Builder
	for raw := a.Addr().AsSlice(); len(raw) > 0; raw = raw[4:] {
		fmt.Fprintf(&b, "%08X", binary.NativeEndian.Uint32(raw))
	}
	fmt.Fprintf(&b, ":%04X", a.Port())
	return b.String()
}

// knowsAllUsers reports whether the user namespace of this process is one that has every user, as
// that of the machine does.
func knowsAllUsers() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	f := strings.Fields(string(text))
	return err == nil && len(f) == 3 && f[0] == "0" && f[1] == "0" && f[2] == "4294967295"
}
