package control

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/iotest"

	"golang.org/x/net/nettest"

	"ginnel/key"
)

// sessions returns both ends of a fresh handshake.
func sessions(t testing.TB) (client, server *session) {
	t.Helper()
	machine, control := key.NewMachinePrivate(), key.NewMachinePrivate()
	i, initiation, err := initiate(machine, control.Public(), CapabilityVersion, nil)
	if err != nil {
		t.Fatal(err)
	}
	server, response, err := respond(control, initiation[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	if client, err = i.finish(response[:]); err != nil {
		t.Fatal(err)
	}
	if server.peer != machine.Public() || client.peer != control.Public() || client.tx != server.rx ||
		client.rx != server.tx {
		t.Fatalf("ends do not agree: %+v, %+v", client, server)
	}
	return client, server
}

// sealed returns the records of plaintexts, one for each, as they are sent.
func sealed(t testing.TB, s *session, plaintexts ...[]byte) []byte {
	t.Helper()
	var cs cipherState
	cs.init(s.tx)
	var wire []byte
	for _, p := range plaintexts {
		var err error
		if wire, err = cs.appendRecord(wire, p); err != nil {
			t.Fatal(err)
		}
	}
	return wire
}

func newReader(s *session, src io.Reader) *rxState {
	rx := &rxState{}
	rx.init(s.rx, src, nil)
	return rx
}

func TestHandshakeTampering(t *testing.T) {
	machine, control := key.NewMachinePrivate(), key.NewMachinePrivate()
	i, initiation, err := initiate(machine, control.Public(), CapabilityVersion, nil)
	if err != nil {
		t.Fatal(err)
	}
	for at := range initiation {
		bad := initiation
		bad[at] ^= 0x40
		if _, _, err := respond(control, bad[:], nil); err == nil {
			t.Errorf("initiation with byte %d changed was accepted", at)
		}
	}
	for n := range initiation {
		if _, _, err := respond(control, initiation[:n], nil); err == nil {
			t.Errorf("initiation cut to %d bytes was accepted", n)
		}
	}
	if _, _, err := respond(key.NewMachinePrivate(), initiation[:], nil); err == nil {
		t.Error("initiation for another server was accepted")
	}
	_, response, err := respond(control, initiation[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	for at := range response {
		// A failed message makes the handshake state unusable, so each trial starts a new handshake.
		i, _, err := initiate(machine, control.Public(), CapabilityVersion, nil)
		if err != nil {
			t.Fatal(err)
		}
		bad := response
		bad[at] ^= 0x40
		if _, err := i.finish(bad[:]); err == nil {
			t.Errorf("response with byte %d changed was accepted", at)
		}
		if _, err := i.finish(response[:at]); err == nil {
			t.Errorf("response cut to %d bytes was accepted", at)
		}
		if _, err := readResponse(bytes.NewReader(response[:at])); err == nil {
			t.Errorf("response cut to %d bytes was read", at)
		}
	}
	if _, err := i.finish(response[:]); err != nil {
		t.Errorf("the true response: %v", err)
	}
}

func TestTamperedResponseOfSameHandshake(t *testing.T) {
	v := vectors(t).Noise
	for at := range v.Response {
		i, _, err := initiate(machineKey(t, v.Machine), key.MachinePublic(v.ControlPublic), v.Version,
			bytes.NewReader(v.ClientEphemeral))
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(v.Response)
		bad[at] ^= 0x10
		if _, err := i.finish(bad); err == nil {
			t.Errorf("response with byte %d changed was accepted", at)
		}
	}
}

func TestRecordTampering(t *testing.T) {
	client, server := sessions(t)
	wire := sealed(t, client, []byte("hello"), []byte("there"))
	for at := range wire {
		bad := bytes.Clone(wire)
		bad[at] ^= 0x08
		rx := newReader(server, bytes.NewReader(bad))
		got, err := io.ReadAll(readerFunc(rx.read))
		if err == nil || len(got) > 5 {
			t.Errorf("byte %d changed: read %q, %v", at, got, err)
		}
		if _, again := rx.read(make([]byte, 1)); again != err {
			t.Errorf("byte %d changed: the error does not stay: %v, then %v", at, err, again)
		}
	}
	half := len(wire) / 2
	for n := range wire {
		got, err := io.ReadAll(readerFunc(newReader(server, bytes.NewReader(wire[:n])).read))
		if whole := n == 0 || n == half; whole != (err == nil) || !whole && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut to %d bytes: read %q, %v", n, got, err)
		}
	}
	swapped := append(bytes.Clone(wire[half:]), wire[:half]...)
	if _, err := newReader(server, bytes.NewReader(swapped)).read(make([]byte, 9)); !errors.Is(err, errForged) {
		t.Errorf("records in the wrong order: %v", err)
	}
}

func TestRecordSizes(t *testing.T) {
	client, server := sessions(t)
	for _, header := range [][]byte{{4, 0x0f, 0xfe}, {4, 0xff, 0xff}, {4, 0, 15}, {4, 0, 0}, {3, 0, 20}, {1, 0, 20}} {
		src := io.MultiReader(bytes.NewReader(header), neverEnding{})
		if _, err := newReader(server, src).read(make([]byte, 1)); !errors.Is(err, errRecordSize) &&
			!errors.Is(err, errNotRecord) {
			t.Errorf("header %x: %v", header, err)
		}
	}
	// "empty plaintext: legal to receive, yields no data" (2.3)
	wire := sealed(t, client, nil, []byte("a"), nil, nil, bytes.Repeat([]byte("b"), maxPlaintext), nil)
	for name, src := range map[string]io.Reader{
		"whole": bytes.NewReader(wire), "byte by byte": iotest.OneByteReader(bytes.NewReader(wire)),
		"halves": iotest.HalfReader(bytes.NewReader(wire)), "error with data": iotest.DataErrReader(bytes.NewReader(wire)),
	} {
		got, err := io.ReadAll(readerFunc(newReader(server, src).read))
		if err != nil || len(got) != 1+maxPlaintext {
			t.Errorf("%s: got %d bytes, %v", name, len(got), err)
		}
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

func TestRecordNumbersEnd(t *testing.T) {
	client, server := sessions(t)
	var tx txState
	tx.init(client.tx)
	tx.cs.next = math.MaxUint64 - 1
	var wire bytes.Buffer
	if n, err := tx.write(&wire, []byte("last")); n != 4 || err != nil {
		t.Errorf("last record: %d, %v", n, err)
	}
	for range 2 {
		if n, err := tx.write(&wire, []byte("none")); n != 0 || !errors.Is(err, errNoNonceLeft) {
			t.Errorf("after the last record: %d, %v", n, err)
		}
	}
	rx := newReader(server, io.MultiReader(&wire, bytes.NewReader(sealed(t, client, []byte("x")))))
	rx.cs.next = math.MaxUint64 - 1
	got, err := io.ReadAll(readerFunc(rx.read))
	if string(got) != "last" || !errors.Is(err, errNoNonceLeft) {
		t.Errorf("reading: %q, %v", got, err)
	}
}

// connPair returns the two ends of a channel over a pair of connections.
func connPair(t testing.TB, a, b net.Conn) (client, server *Conn) {
	t.Helper()
	cs, ss := sessions(t)
	return newConn(a, cs, nil), newConn(b, ss, nil)
}

func loopback(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestConn(t *testing.T) {
	for _, over := range []struct {
		name  string
		conns func() (a, b net.Conn)
	}{
		{"TCP", func() (a, b net.Conn) { return loopback(t) }},
		{"pipe", func() (a, b net.Conn) { return net.Pipe() }},
	} {
		t.Run(over.name, func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				a, b := over.conns()
				client, server := connPair(t, a, b)
				return client, server, func() { client.Close(); server.Close() }, nil
			})
		})
	}
}

// If a deadline interrupts a write at any byte, the next write continues, and nothing is lost or
// sent twice.
func TestWriteGoesOnAfterDeadline(t *testing.T) {
	cs, ss := sessions(t)
	var tx txState
	tx.init(cs.tx)
	var sent []byte
	cut := &cuttingWriter{}
	text := bytes.Repeat([]byte("0123456789"), 1000)
	for rest := text; len(rest) > 0; {
		n, err := tx.write(cut, rest[:min(len(rest), 300)])
		sent = append(sent, rest[:n]...)
		rest = rest[n:]
		if err != nil && !errors.Is(err, errCut) {
			t.Fatal(err)
		}
	}
	for range 100 { // flushes the pending record
		tx.write(cut, nil)
	}
	got, err := io.ReadAll(readerFunc(newReader(ss, &cut.got).read))
	if err != nil || !bytes.Equal(got, text) || !bytes.Equal(sent, text) {
		t.Errorf("got %d bytes, counted %d, %v, want %d", len(got), len(sent), err, len(text))
	}
	if tx.buf != nil {
		t.Error("the buffer was not given back")
	}
}

// cuttingWriter accepts a few bytes of each write and then reports that the deadline has passed.
type cuttingWriter struct {
	got  bytes.Buffer
	step int
}

var errCut = fmt.Errorf("cut: %w", cutTimeout{})

type cutTimeout struct{}

func (cutTimeout) Error() string        { return "timeout" }
func (cutTimeout) Is(target error) bool { return target == os.ErrDeadlineExceeded }

func (w *cuttingWriter) Write(p []byte) (int, error) {
	w.step = (w.step + 37) % 101
	if w.step < len(p) {
		w.got.Write(p[:w.step])
		return w.step, errCut
	}
	return w.got.Write(p)
}

func TestWriteErrorStays(t *testing.T) {
	cs, _ := sessions(t)
	var tx txState
	tx.init(cs.tx)
	broken := errors.New("broken")
	if n, err := tx.write(brokenWriter{broken}, make([]byte, 10_000)); n != 0 || !errors.Is(err, broken) {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := tx.write(io.Discard, []byte("x")); !errors.Is(err, broken) {
		t.Errorf("after the error: %v", err)
	}
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

func memConns() (a, b *memConn) {
	return memPipe(64<<10, netip.MustParseAddrPort("198.51.100.1:1"), netip.MustParseAddrPort("203.0.113.1:443"))
}

func TestRecordsAllocateNothing(t *testing.T) {
	cs, ss := sessions(t)
	var tx txState
	tx.init(cs.tx)
	var wire bytes.Buffer
	rx := newReader(ss, &wire)
	buf := make([]byte, 3000)
	if n := testing.AllocsPerRun(200, func() {
		tx.write(&wire, buf)
		rx.read(buf)
	}); n > raceSlack {
		t.Errorf("%v allocations for a record, want none", n)
	}
}

func TestEarlyPayload(t *testing.T) {
	client, server := sessions(t)
	preface := []byte("\x00\x00\x12\x04\x00\x00\x00\x00\x00and more")
	payload := []byte("\xff\xff\xffTS\x00\x00\x00\x05hello")
	split := func(b []byte, n int) (parts [][]byte) {
		for len(b) > 0 {
			m := min(n, len(b))
			parts, b = append(parts, b[:m]), b[m:]
		}
		return parts
	}
	for _, c := range []struct {
		name string
		in   []byte
		want string
		err  error
	}{
		{"payload", append(bytes.Clone(payload), preface...), string(preface), nil},
		{"none", preface, string(preface), nil},
		{"empty payload", append([]byte("\xff\xff\xffTS\x00\x00\x00\x00"), preface...), string(preface), nil},
		{"short stream", []byte("abc"), "abc", nil},
		{"nothing", nil, "", nil},
		{"cut payload", payload[:11], "", io.ErrUnexpectedEOF},
		{"too large", []byte("\xff\xff\xffTS\x00\xa0\x00\x01"), "", errEarlySize},
	} {
		for n := 1; n <= len(c.in)+1; n++ {
			wire := sealed(t, server, split(c.in, n)...)
			conn := newConn(nil, client, nil)
			conn.rx.src = bytes.NewReader(wire)
			got, err := io.ReadAll(&earlyConn{Conn: conn})
			if string(got) != c.want || !errors.Is(err, c.err) {
				t.Errorf("%s in records of %d: got %q, %v, want %q, %v", c.name, n, got, err, c.want, c.err)
			}
		}
	}
}

func FuzzInitiation(f *testing.F) {
	v := vectors(f)
	f.Add([]byte(v.Noise.Initiation))
	for _, r := range v.Reject {
		f.Add([]byte(r.Initiation))
	}
	server := machineKey(f, v.Noise.Control)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, _, err := respond(server, b, nil); err == nil && s.peer.IsZero() {
			t.Error("accepted a client without a key")
		}
	})
}

func FuzzResponse(f *testing.F) {
	v := vectors(f)
	f.Add([]byte(v.Noise.Response))
	f.Add([]byte(v.ErrorFrame.Wire))
	f.Fuzz(func(t *testing.T, b []byte) {
		msg, err := readResponse(bytes.NewReader(b))
		if err != nil {
			return
		}
		i, _, err := initiate(machineKey(t, v.Noise.Machine), key.MachinePublic(v.Noise.ControlPublic), 131, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.finish(msg); err == nil {
			t.Error("a response for another handshake was accepted")
		}
	})
}

func FuzzRecords(f *testing.F) {
	v := vectors(f).Noise
	for _, r := range v.RecordsToServer {
		f.Add([]byte(r.Wire), 5)
	}
	_, server := handshakeVector(f, &v)
	f.Fuzz(func(t *testing.T, b []byte, first int) {
		first = max(0, min(first, len(b)))
		rx := &rxState{}
		rx.init(server.rx, iotest.HalfReader(bytes.NewReader(b[first:])), b[:first])
		got, _ := io.ReadAll(readerFunc(rx.read))
		if len(got) > len(b) {
			t.Error("more came out than went in")
		}
	})
}

func BenchmarkRecords(b *testing.B) {
	cs, ss := sessions(b)
	var tx txState
	tx.init(cs.tx)
	var wire bytes.Buffer
	rx := newReader(ss, &wire)
	plain := make([]byte, maxPlaintext)
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		tx.write(&wire, plain)
		if n, err := rx.read(plain); err != nil || n != len(plain) {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkConnLoopback(b *testing.B) {
	x, y := loopback(b)
	client, server := connPair(b, x, y)
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(io.Discard, server) })
	chunk := make([]byte, 16<<10)
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		client.Write(chunk)
	}
	client.Close()
	wg.Wait()
	server.Close()
}

func TestKeysAreNotPrinted(t *testing.T) {
	cs, _ := sessions(t)
	c := newConn(nil, cs, nil)
	if c.s.tx != [32]byte{} || c.s.rx != [32]byte{} {
		t.Error("the session keys can be printed through the Conn")
	}
	if c.Version() != CapabilityVersion || c.Peer() != cs.peer {
		t.Error("the Conn has lost the version or the peer's key")
	}
}
