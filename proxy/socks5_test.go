package proxy

import (
	"errors"
	"net"
	"strings"
	"testing"
)

func TestSOCKS5Conversations(t *testing.T) {
	auth := func(user, password string) bool { return user == "ann" && password == "pw" }
	tests := []struct {
		name string
		rule string // quoted from RFC 1928, or from RFC 1929 if it starts with 1929
		auth func(user, password string) bool
		talk string // lines: > sent by the client, < sent by the server, = address dialled, . end of the stream
	}{{
		name: "IPv4",
		rule: "the address is a version-4 IP address, with a length of 4 octets",
		talk: "> 05 01 00\n< 05 00\n> 05 01 00 01 64 40 00 07 00 50\n= 100.64.0.7:80\n< 05 00 00 01 7f 00 00 01 c3 50",
	}, {
		name: "IPv6",
		rule: "the address is a version-6 IP address, with a length of 16 octets",
		talk: "> 05 01 00\n< 05 00\n" +
			"> 05 01 00 04 fd 7a 11 5c a1 e0 00 00 00 00 00 00 00 00 00 01 01 bb\n= [fd7a:115c:a1e0::1]:443\n" +
			"< 05 00 00 01 xx xx xx xx xx xx",
	}, {
		name: "name",
		rule: "the address field contains a fully-qualified domain name. The first octet of the address field contains the " +
			"number of octets of name that follow, there is no terminating NUL octet",
		talk: "> 05 01 00\n< 05 00\n> 05 01 00 03 07 64 62 2e 6d 65 73 68 15 38\n= db.mesh:5432\n" +
			"< 05 00 00 01 xx xx xx xx xx xx",
	}, {
		name: "IPv6 address as a name, in the form of URLs", // [fd00::1]
		talk: "> 05 01 00\n< 05 00\n> 05 01 00 03 09 5b 66 64 30 30 3a 3a 31 5d 00 50\n= [fd00::1]:80\n" +
			"< 05 00 00 01 xx xx xx xx xx xx",
	}, {
		name: "name of one letter",
		talk: "> 05 01 00\n< 05 00\n> 05 01 00 03 01 61 00 50\n= a:80\n< 05 00 00 01 xx xx xx xx xx xx",
	}, {
		name: "the whole conversation in one piece, with data",
		talk: "> 05 01 00 05 01 00 03 01 61 00 50 68 69\n< 05 00 05 00 00 01 xx xx xx xx xx xx 68 69",
	}, {
		name: "data comes back",
		talk: "> 05 01 00\n< 05 00\n> 05 01 00 03 01 61 00 50\n< 05 00 00 01 xx xx xx xx xx xx\n> 00 ff 05\n< 00 ff 05",
	}, {
		name: "one method among several",
		rule: "The server selects from one of the methods given in METHODS",
		talk: "> 05 03 01 80 00\n< 05 00",
	}, {
		name: "no acceptable method",
		rule: "If the selected METHOD is X'FF', none of the methods listed by the client are acceptable, " +
			"and the client MUST close the connection",
		talk: "> 05 02 01 03\n< 05 ff\n.",
	}, {
		name: "no method at all",
		talk: "> 05 00\n< 05 ff\n.",
	}, {
		name: "a password that is not needed",
		talk: "> 05 01 02\n< 05 02\n> 01 01 61 01 62\n< 01 00",
	}, {
		name: "password",
		rule: "1929: A STATUS field of X'00' indicates success",
		auth: auth,
		talk: "> 05 02 00 02\n< 05 02\n> 01 03 61 6e 6e 02 70 77\n< 01 00\n> 05 01 00 03 01 61 00 50\n" +
			"< 05 00 00 01 xx xx xx xx xx xx",
	}, {
		name: "wrong password",
		rule: "1929: If the server returns a `failure' (STATUS value other than X'00') status, it MUST close the connection",
		auth: auth,
		talk: "> 05 01 02\n< 05 02\n> 01 03 61 6e 6e 02 70 78\n< 01 01\n.",
	}, {
		name: "password and request in one piece, refused",
		auth: auth,
		talk: "> 05 01 02 01 01 78 01 78 05 01 00 03 01 61 00 50\n< 05 02 01 01\n.",
	}, {
		name: "no password offered where one is needed",
		auth: auth,
		talk: "> 05 01 00\n< 05 ff\n.",
	}, {
		name: "BIND",
		rule: "X'07' Command not supported",
		talk: "> 05 01 00\n< 05 00\n> 05 02 00 01 00 00 00 00 00 00\n< 05 07 00 01 00 00 00 00 00 00\n.",
	}, {
		name: "a command that does not exist",
		talk: "> 05 01 00\n< 05 00\n> 05 09 00 01 00 00 00 00 00 00\n< 05 07 00 01 00 00 00 00 00 00\n.",
	}, {
		name: "UDP without ListenPacket",
		talk: "> 05 01 00\n< 05 00\n> 05 03 00 01 00 00 00 00 00 00\n< 05 07 00 01 00 00 00 00 00 00\n.",
	}, {
		name: "an address type that does not exist",
		rule: "X'08' Address type not supported",
		talk: "> 05 01 00\n< 05 00\n> 05 01 00 02 00 00 00 00 00 00\n< 05 08 00 01 00 00 00 00 00 00\n.",
	}, {
		name: "an empty name, which dialling might take for this host",
		talk: "> 05 01 00\n< 05 00\n> 05 01 00 03 00 00 50\n< 05 04 00 01 00 00 00 00 00 00\n.",
	}, {
		name: "a name with a line end",
		talk: "> 05 01 00\n< 05 00\n> 05 01 00 03 03 61 0a 62 00 50\n< 05 04 00 01 00 00 00 00 00 00\n.",
	}, {
		name: "another version in the request",
		talk: "> 05 01 00\n< 05 00\n> 04 01 00 01 00 00 00 00 00 00\n.",
	}, {
		name: "another version of the password negotiation",
		auth: auth,
		talk: "> 05 01 02\n< 05 02\n> 05 01 61 01 61\n.",
	}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &recorder{next: dialEcho}
			converse(t, r, serve(t, &Server{Dial: r.dial, Auth: tt.auth}), tt.talk)
		})
	}
}

// converse holds the conversation talk with the server at addr, whose dials r records.
func converse(t *testing.T, r *recorder, addr, talk string) {
	t.Helper()
	c := dialChat(t, "tcp", addr)
	for line := range strings.Lines(talk) {
		rest := strings.TrimSpace(line[1:])
		switch line[0] {
		case '>':
			c.send(rest)
		case '<':
			c.want(rest)
		case '=':
			eventually(t, "a dial to "+rest, func() bool { return r.last() == rest })
		case '.':
			c.wantEnd()
		}
	}
}

// Names, users and passwords may have 255 bytes, the most that the formats can express.
func TestSOCKS5LongestFields(t *testing.T) {
	long := strings.Repeat("x", 255)
	r := &recorder{next: dialEcho}
	auth := func(user, password string) bool { return user == long && password == long }
	addr := serve(t, &Server{Dial: r.dial, Auth: auth})
	c := dialChat(t, "tcp", addr).send("05 01 02").want("05 02")
	c.say("\x01\xff" + long + "\xff" + long).want("01 00")
	c.say("\x05\x01\x00\x03\xff" + long + "\x00\x50").want("05 00 00 01 xx xx xx xx xx xx")
	if got, want := r.last(), long+":80"; got != want {
		t.Errorf("dialled %q, want %q", got, want)
	}
}

// A local address that SOCKS5 cannot express is sent as 0.0.0.0:0. The library would send a
// failure.
func TestSOCKS5LocalAddressOfAnotherKind(t *testing.T) {
	a := socks5Replies{}.granted(&net.UnixAddr{Name: "x", Net: "unix"})
	if want := "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"; string(a) != want {
		t.Errorf("got % x, want % x", a, want)
	}
	a = socks5Replies{}.granted(&net.TCPAddr{IP: net.IPv6loopback, Port: 258})
	if want := "\x05\x00\x00\x04" + strings.Repeat("\x00", 15) + "\x01\x01\x02"; string(a) != want {
		t.Errorf("got % x, want % x", a, want)
	}
}

func TestSOCKS4Conversations(t *testing.T) {
	tests := []struct {
		name string
		rule string // quoted from the documents named in socks4.go
		auth func(user, password string) bool
		talk string
	}{{
		name: "CONNECT",
		rule: "90: request granted",
		talk: "> 04 01 00 50 64 40 00 07 00\n= 100.64.0.7:80\n< 00 5a xx xx xx xx xx xx\n> 01\n< 01",
	}, {
		name: "user",
		rule: "USERID ... NULL",
		talk: "> 04 01 00 50 64 40 00 07 61 6e 6e 00\n= 100.64.0.7:80\n< 00 5a xx xx xx xx xx xx",
	}, {
		name: "4a",
		rule: "the client should set the first three bytes of DSTIP to NULL and the last byte to a non-zero " +
			"value. Following the NULL byte terminating USERID, the client must sends the destination domain " +
			"name and termiantes it with another NULL byte",
		talk: "> 04 01 15 38 00 00 00 01 61 00 64 62 2e 6d 65 73 68 00\n= db.mesh:5432\n< 00 5a xx xx xx xx xx xx",
	}, {
		name: "4a with data in the same piece",
		talk: "> 04 01 15 38 00 00 00 01 00 64 62 00 68 69\n= db:5432\n< 00 5a xx xx xx xx xx xx 68 69",
	}, {
		name: "0.0.0.0 is not a name",
		talk: "> 04 01 00 50 00 00 00 00 00\n= 0.0.0.0:80\n< 00 5a xx xx xx xx xx xx",
	}, {
		name: "BIND",
		rule: "91: request rejected or failed",
		talk: "> 04 02 00 50 64 40 00 07 00\n< 00 5b xx xx xx xx xx xx\n.",
	}, {
		name: "an empty name",
		talk: "> 04 01 00 50 00 00 00 01 00 00\n< 00 5b xx xx xx xx xx xx\n.",
	}, {
		name: "a password is needed, and SOCKS4 has none",
		auth: func(string, string) bool { return true },
		talk: "> 04 01 00 50 64 40 00 07 00\n< 00 5b xx xx xx xx xx xx\n.",
	}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &recorder{next: dialEcho}
			converse(t, r, serve(t, &Server{Dial: r.dial, Auth: tt.auth}), tt.talk)
		})
	}
}

func TestSOCKS4FieldsTooLong(t *testing.T) {
	addr := serve(t, &Server{Dial: dialEcho})
	dialChat(t, "tcp", addr).say("\x04\x01\x00\x50\x01\x02\x03\x04" + strings.Repeat("u", 256)).wantGone()
	dialChat(t, "tcp", addr).say("\x04\x01\x00\x50\x00\x00\x00\x04\x00" + strings.Repeat("n", 256)).wantGone()
}

func TestParseSOCKS4Truncated(t *testing.T) {
	for _, whole := range []string{
		"\x04\x01\x00\x50\x01\x02\x03\x04me\x00", "\x04\x01\x00\x50\x00\x00\x00\x04me\x00name\x00",
	} {
		for i := range whole {
			if _, _, err := parseSOCKS4([]byte(whole[:i])); !errors.Is(err, errShort) {
				t.Errorf("%q: got %v, want %v", whole[:i], err, errShort)
			}
		}
		if _, n, err := parseSOCKS4([]byte(whole + "rest")); n != len(whole) || err != nil {
			t.Errorf("%q: got %d, %v", whole, n, err)
		}
	}
}

// Every prefix of a handshake, cut off by the client or followed by garbage, ends only its own
// connection.
func TestTruncatedAndGarbledHandshakes(t *testing.T) {
	auth := func(user, password string) bool { return user == "a" }
	addr := serve(t, &Server{Dial: dialEcho, Auth: auth})
	for _, whole := range []string{
		"\x05\x01\x02\x01\x01a\x01b\x05\x01\x00\x03\x04name\x00\x50",
		"\x05\x01\x02\x01\x01a\x01b\x05\x01\x00\x04\x01\x02\x03\x04\x01\x02\x03\x04\x01\x02\x03\x04\x01\x02\x03\x04\x00\x50",
		"\x04\x01\x00\x50\x00\x00\x00\x04me\x00name\x00",
		"CONNECT a:80 HTTP/1.1\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
		"GET http://a/ HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
	} {
		for i := range whole {
			c := dialChat(t, "tcp", addr).say(whole[:i])
			c.finish()
			discardAll(c)
			c = dialChat(t, "tcp", addr).say(whole[:i] + "\xff\x00\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
			c.finish()
			discardAll(c)
		}
	}
	dialChat(t, "tcp", addr).say("\x05\x01\x02\x01\x01a\x01b").want("05 02 01 00")
}
