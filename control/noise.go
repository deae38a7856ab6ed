package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/flynn/noise"

	"ginnel/key"
)

// This file is the Noise handshake (control specification, sections 2.2 to 2.4). Its functions turn
// messages into messages and keys; only readResponse reads from a connection.

// Types of messages on a channel.
const (
	typeInitiation = 1
	typeResponse   = 2
	typeError      = 3
	typeRecord     = 4
)

const (
	initiationHeader = 5 // version, type, length
	messageHeader    = 3 // type, length
	initiationSize   = 101
	responseSize     = 51
	maxErrorText     = 512 // bytes that are read of the text of an error frame
)

var (
	errInitiation = errors.New("handshake initiation is malformed")
	errResponse   = errors.New("handshake response is malformed")
	errUnopenable = errors.New("handshake response was made with other keys, or damaged on the way")
)

// suite is Noise_25519_ChaChaPoly_BLAKE2s.
var suite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s)

// session is the result of a finished handshake.
type session struct {
	version int
	peer    key.MachinePublic
	tx, rx  [32]byte // keys of the two directions
}

// prologue returns the Noise prologue. Both ends mix it in, so that the handshake fails if the
// version was changed on the way.
func prologue(version uint16) []byte {
	return strconv.AppendUint([]byte("Tailscale Control Protocol v"), uint64(version), 10)
}

// staticKey returns k as a key pair of the Noise library.
func staticKey(k key.MachinePrivate) noise.DHKey {
	private, public := k.Raw(), k.Public()
	return noise.DHKey{Private: private[:], Public: public[:]}
}

// initiator is the client's state between the initiation and the response.
type initiator struct {
	state   *noise.HandshakeState
	version uint16
	server  key.MachinePublic
}

// initiate starts a handshake with server and returns the initiation. A nil random means
// crypto/rand.
func initiate(machine key.MachinePrivate, server key.MachinePublic, version uint16, random io.Reader) (
	*initiator, [initiationSize]byte, error) {
	var msg [initiationSize]byte
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: suite, Random: random, Pattern: noise.HandshakeIK, Initiator: true,
		Prologue: prologue(version), StaticKeypair: staticKey(machine), PeerStatic: server[:],
	})
	if err != nil {
		return nil, msg, fmt.Errorf("preparing the handshake: %w", err)
	}
	binary.BigEndian.PutUint16(msg[0:], version)
	msg[2] = typeInitiation
	binary.BigEndian.PutUint16(msg[3:], initiationSize-initiationHeader)
	if _, _, _, err = state.WriteMessage(msg[:initiationHeader], nil); err != nil {
		return nil, msg, fmt.Errorf("writing the initiation: %w", err)
	}
	return &initiator{state: state, version: version, server: server}, msg, nil
}

// finish processes the server's response. It must be called once only.
func (i *initiator) finish(msg []byte) (*session, error) {
	if len(msg) != responseSize || msg[0] != typeResponse ||
		binary.BigEndian.Uint16(msg[1:]) != responseSize-messageHeader {
		return nil, errResponse
	}
	_, tx, rx, err := i.state.ReadMessage(nil, msg[messageHeader:])
	if err != nil {
		return nil, errUnopenable
	}
	return &session{version: int(i.version), peer: i.server, tx: tx.UnsafeKey(), rx: rx.UnsafeKey()}, nil
}

// initiationVersion returns the capability version in the header of an initiation.
func initiationVersion(msg []byte) (uint16, error) {
	if len(msg) != initiationSize || msg[2] != typeInitiation ||
		binary.BigEndian.Uint16(msg[3:]) != initiationSize-initiationHeader {
		return 0, errInitiation
	}
	return binary.BigEndian.Uint16(msg), nil
}

// respond processes an initiation and returns the response. A nil random means crypto/rand.
func respond(server key.MachinePrivate, initiation []byte, random io.Reader) (*session, [responseSize]byte, error) {
	var msg [responseSize]byte
	version, err := initiationVersion(initiation)
	if err != nil {
		return nil, msg, err
	}
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: suite, Random: random, Pattern: noise.HandshakeIK,
		Prologue: prologue(version), StaticKeypair: staticKey(server),
	})
	if err != nil {
		return nil, msg, fmt.Errorf("preparing the handshake: %w", err)
	}
	if _, _, _, err = state.ReadMessage(nil, initiation[initiationHeader:]); err != nil {
		return nil, msg, fmt.Errorf("opening the initiation: %w", err)
	}
	msg[0] = typeResponse
	binary.BigEndian.PutUint16(msg[1:], responseSize-messageHeader)
	_, rx, tx, err := state.WriteMessage(msg[:messageHeader], nil)
	if err != nil {
		return nil, msg, fmt.Errorf("writing the handshake response: %w", err)
	}
	s := &session{version: int(version), tx: tx.UnsafeKey(), rx: rx.UnsafeKey()}
	copy(s.peer[:], state.PeerStatic())
	return s, msg, nil
}

// appendErrorFrame appends the frame that a server sends instead of a response: text for people,
// neither encrypted nor authenticated.
func appendErrorFrame(b []byte, text string) []byte {
	text = text[:min(len(text), maxErrorText)]
	b = append(b, typeError)
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

// errorFrame is a received error frame.
type errorFrame struct{ text string }

func (e *errorFrame) Error() string { return fmt.Sprintf("server says %q", e.text) }

// readResponse reads the server's response. The error is an *errorFrame if the server sent one
// instead.
func readResponse(r io.Reader) ([]byte, error) {
	msg := make([]byte, responseSize)
	if _, err := io.ReadFull(r, msg[:messageHeader]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(msg[1:]))
	switch {
	case msg[0] == typeResponse && n == responseSize-messageHeader:
		if _, err := io.ReadFull(r, msg[messageHeader:]); err != nil {
			return nil, noEOF(err)
		}
		return msg, nil
	case msg[0] == typeError:
		text := make([]byte, min(n, maxErrorText))
		if _, err := io.ReadFull(r, text); err != nil {
			return nil, noEOF(err)
		}
		return nil, &errorFrame{string(text)}
	}
	return nil, errResponse
}

// noEOF turns io.EOF within a message into io.ErrUnexpectedEOF.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
