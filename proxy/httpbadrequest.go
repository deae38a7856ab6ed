package proxy

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
)

// refusedByHTTP is what net/http sends for a request that it cannot parse; no handler runs then.
// TestMalformedRequestIsExplained fails if a new Go version changes this text.
var refusedByHTTP = []byte("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n" +
	"Connection: close\r\n\r\n400 Bad Request")

// maxReason bounds the reason that is sent to the client, in bytes. The reason quotes the request,
// so it can be long.
const maxReason = 300

// Write implements net.Conn. If p is net/http's response to a malformed request, Write adds what is
// wrong with the request, and closes the connection by lingerClose, so that the client gets to read
// it.
func (c *conn) Write(p []byte) (int, error) {
	if !bytes.Equal(p, refusedByHTTP) {
		return c.Conn.Write(p)
	}
	c.lingerClose(append(bytes.Clone(p), ": "+whyMalformed(c.head)+"\n"...))
	return len(p), nil
}

// recordHead is called after n bytes were read into p, the unused part of net/http's read buffer.
// It makes c.head alias the bytes that net/http has read since it last filled the buffer from its
// start, which include the whole head of the request that it parses.
func (c *conn) recordHead(p []byte, n int) {
	if n == 0 || !c.http {
		return
	}
	if end := len(c.head); end > 0 && end < cap(c.head) && &c.head[:end+1][end] == &p[0] {
		c.head = c.head[:end+n]
		return
	}
	c.head = p[:n]
}

// whyMalformed returns the reason why net/http refuses the head of a request.
func whyMalformed(head []byte) string {
	_, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err == nil {
		return "the request is malformed"
	}
	reason := strings.TrimPrefix(err.Error(), "net/textproto: ")
	return reason[:min(len(reason), maxReason)]
}
